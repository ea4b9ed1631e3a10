"""Job types and schedules over HTTP: what there is, pause, resume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.keys import require, require_operator
from gateway.auth.principals import principal_of
from gateway.errors import NotFound, QueueUnavailable
from gateway.jobs.queue import JobQueue
from gateway.jobs.task_types import KnownSchedule, KnownType, TaskTypes
from gateway.web.responses import json_response, rfc3339


@dataclass(frozen=True)
class ControlRoutes:
    """The handlers and what they need."""

    types: TaskTypes
    queue: JobQueue

    def routes(self) -> list[Route]:
        """Return the routes, to be mounted at the root."""
        return [
            Route("/v1/task-types", self.index, methods=["GET"]),
            Route("/v1/task-types/{type}/pause", self.pause, methods=["POST"]),
            Route("/v1/task-types/{type}/resume", self.resume, methods=["POST"]),
            Route("/v1/schedules", self.schedules, methods=["GET"]),
        ]

    async def index(self, request: Request) -> Response:
        """GET /v1/task-types: every type with its pool, cap, pause and numbers over all tenants."""
        require_operator(principal_of(request.scope))
        known = await self.types.known()
        depths = {pool: await self._depth(pool) for pool in {one.pool for one in known}}
        return json_response({"items": [type_document(one, depths[one.pool]) for one in known]})

    async def pause(self, request: Request) -> Response:
        """POST /v1/task-types/{type}/pause: nothing of the type is started any more; its jobs are accepted and wait."""
        return await self._pause(request, paused=True)

    async def resume(self, request: Request) -> Response:
        """POST /v1/task-types/{type}/resume: what waited flows again."""
        return await self._pause(request, paused=False)

    async def schedules(self, request: Request) -> Response:
        """GET /v1/schedules: the recurring jobs of the caller's tenant."""
        principal = principal_of(request.scope)
        require(principal, "jobs:read")
        paused = {known.type for known in await self.types.known() if known.paused}
        found = await self.types.schedules(principal.tenant)
        return json_response({"items": [schedule_document(one, paused=one.type in paused) for one in found]})

    async def _pause(self, request: Request, *, paused: bool) -> Response:
        require_operator(principal_of(request.scope))
        name = request.path_params["type"]
        if not await self.types.pause(name, paused=paused):
            raise NotFound("no worker has registered such a type")
        return json_response({"type": name, "paused": paused})

    async def _depth(self, pool: str) -> dict[str, int] | None:
        try:
            return await self.queue.depth(pool)
        except QueueUnavailable:
            return None


def type_document(known: KnownType, depth: dict[str, int] | None) -> dict[str, Any]:
    """Write a type as JSON; `queue_depth` is its pool's, by class, or null while the broker is away."""
    document = msgspec.structs.asdict(known)
    return {**document, "seen_at": rfc3339(known.seen_at), "queue_depth": depth}


def schedule_document(known: KnownSchedule, *, paused: bool) -> dict[str, Any]:
    """Write a schedule as JSON."""
    schedule = known.schedule
    return {
        "type": known.type,
        "schedule": schedule.cron,
        "timezone": schedule.timezone,
        "tenant": schedule.tenant,
        "input": msgspec.Raw(schedule.input.encode()),
        "overlap": schedule.overlap,
        "paused": paused,
        "next_at": rfc3339(known.next / 1000),
        "last_at": None if known.last is None else rfc3339(known.last / 1000),
        "last_job": known.job,
        "skipped": known.skipped,
    }
