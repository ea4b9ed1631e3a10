"""Recurring jobs: whatever fires becomes a job, once, however many processes look.

A firing's job has an id made of type and time, so that a repetition is the same job; the schedule moves on by
compare-and-set. What was missed while nothing ran is made up for by one firing, never by a burst.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from gateway.errors import ConfigurationError, GatewayError
from gateway.jobs.arguments import Arguments
from gateway.jobs.store import JobStore
from gateway.jobs.submission import Submission
from gateway.jobs.task_types import Firing, TaskTypes
from gateway.settings import Settings
from gateway.store.channels import ChannelStore
from gateway.web.context import random_trace

log = structlog.get_logger(__name__)

BATCH = 20
LONGEST_NAP = 1.0  # a schedule may have come that fires sooner than those we saw
SHORTEST_NAP = 0.05
AWAY_NAP = 1.0
REFUSED_NAP = 5.0


class Scheduler:
    """Fires the schedules of all shards. Every process may run one; they share the work."""

    def __init__(self, jobs: JobStore, types: TaskTypes, channels: ChannelStore, settings: Settings) -> None:
        self._jobs = jobs
        self._types = types
        self._arguments = Arguments(channels, settings)

    async def run(self) -> None:
        """Work until cancelled; Redis being away only makes it wait."""
        async with asyncio.TaskGroup() as tasks:
            for tag in self._types.tags():
                tasks.create_task(self._forever(tag))

    async def _forever(self, tag: str) -> None:
        while True:
            try:
                nap = await self.step(tag)
            except GatewayError as error:
                log.warning("scheduler.waiting", reason=error.code)
                nap = AWAY_NAP
            await asyncio.sleep(nap)

    async def step(self, tag: str) -> float:
        """Fire what is due in a shard; returns how long to sleep, in seconds."""
        firings = await self._types.firings(tag, limit=BATCH)
        done = [await self._fire(firing, firings.now) for firing in firings.due]
        if not all(done):
            return REFUSED_NAP
        nap = LONGEST_NAP if firings.next_ms < 0 else firings.next_ms / 1000
        return max(SHORTEST_NAP, min(LONGEST_NAP, nap))

    async def _fire(self, firing: Firing, now: int) -> bool:
        """Deal with one firing; False when it has to be tried again."""
        try:
            following = firing.schedule.following(max(now, firing.at))
        except ConfigurationError as error:
            log.error("schedule.broken", type=firing.type, reason=str(error))  # noqa: TRY400 - it says it all
            return False
        job_id = None
        if not firing.skip:
            job_id = firing.schedule.job_id(firing.type, firing.at)
            kind = await self._submit(firing, job_id)
            if kind not in {"accepted", "parked", "existing"}:
                log.warning("schedule.refused", type=firing.type, tenant=firing.schedule.tenant, reason=kind)
                return False
        if await self._types.fired(firing, following=following, job_id=job_id):
            log.info("schedule.fired", type=firing.type, tenant=firing.schedule.tenant, job_id=job_id)
        return True

    async def _submit(self, firing: Firing, job_id: str) -> str:
        """Accept the job: due at once, so that a reaper publishes it; returns what submit.lua decided."""
        tenant = firing.schedule.tenant
        wanted = Submission(type=firing.type, input=msgspec.Raw(firing.schedule.input.encode()))
        arguments = self._arguments.of(tenant, job_id, wanted, random_trace().traceparent, lease=0)
        return (await self._jobs.submit(tenant, **arguments)).kind
