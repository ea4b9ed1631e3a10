"""`/healthz` and `/readyz`: for supervisors and balancers, without credentials."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.telemetry.health import Readiness
from gateway.web.responses import json_response

_NO_STORE = {"Cache-Control": "no-store"}


@dataclass(frozen=True)
class HealthRoutes:
    """The handlers and what they need."""

    readiness: Callable[[], Awaitable[Readiness]]

    def routes(self) -> list[Route]:
        """Return the routes, to be mounted at the root."""
        return [
            Route("/healthz", self.health, methods=["GET"]),
            Route("/readyz", self.ready, methods=["GET"]),
        ]

    async def health(self, request: Request) -> Response:
        """GET /healthz: the process lives."""
        del request
        return json_response({"status": "ok"}, 200, _NO_STORE)

    async def ready(self, request: Request) -> Response:
        """GET /readyz: 200 or 503, each dependency by name."""
        del request
        said = await self.readiness()
        body = {"status": "ok" if said.ready else "unavailable", "checks": said.checks}
        return json_response(body, 200 if said.ready else 503, _NO_STORE)
