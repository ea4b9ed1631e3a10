"""ASGI middleware: no tenant makes more requests than it may."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.auth.principals import optional_principal
from gateway.errors import RateLimited
from gateway.web.problems import refuse

COUNTED = "/v1/"
STREAM = "/v1/stream"  # says so in its own way: a reader that gets a 429 never comes back


class RateLimit:
    """Counts the API requests of those who said who they are; stands inside `Authentication`."""

    def __init__(self, app: ASGIApp, spend: Callable[[str], Awaitable[None]]) -> None:
        """`spend` pays for one request of a tenant; raises RateLimited."""
        self.app = app
        self.spend = spend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path.startswith(COUNTED) and path != STREAM:
            principal = optional_principal(scope)
            try:
                if principal is not None:
                    await self.spend(principal.tenant)
            except RateLimited as error:
                await refuse(error, scope, receive, send)
                return
        await self.app(scope, receive, send)
