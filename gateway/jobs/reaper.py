"""The reaper: makes due things happen and forgets what is old. Every process runs one; they share the work.

A due entry is leased by the script that hands it out, so two reapers never publish the same attempt at once, and
what a dead one held comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gateway.errors import GatewayError, QueueFull, QueueUnavailable
from gateway.jobs.queue import JobQueue, Message
from gateway.jobs.store import JobStore
from gateway.settings import Settings

log = structlog.get_logger(__name__)

BATCH = 100
LEASE = 5.0  # how long a handed-out entry is ours to publish
LONGEST_NAP = 0.25  # something may become due sooner than what we saw: a new job, another process' retry
AWAY_NAP = 1.0
PURGE_EVERY = 60.0

Forget = Callable[[str, str], Awaitable[None]]


class Reaper:
    """Publishes due jobs, recovers lost leases, expires, purges."""

    def __init__(self, store: JobStore, queue: JobQueue, settings: Settings, forget: Forget) -> None:
        self._store = store
        self._queue = queue
        self._settings = settings
        self._forget = forget

    async def run(self) -> None:
        """Work until cancelled; Redis or the broker being away only makes it wait."""
        async with asyncio.TaskGroup() as tasks:
            for tag in self._store.tags():
                tasks.create_task(self._forever(self.step, tag))
                tasks.create_task(self._forever(self._purge, tag))

    async def _forever(self, step: Callable[[str], Awaitable[float]], tag: str) -> None:
        while True:
            try:
                nap = await step(tag)
            except GatewayError as error:
                log.warning("reaper.waiting", reason=error.code)
                nap = AWAY_NAP
            await asyncio.sleep(nap)

    async def step(self, tag: str) -> float:
        """Act once on what is due in a shard; returns how long to sleep, in seconds."""
        due = await self._store.due(tag, limit=BATCH, lease=LEASE, publish=self._queue.healthy())
        if due.lost:
            log.warning("reaper.leases_lost", count=due.lost)
        if due.messages:
            async with asyncio.TaskGroup() as tasks:
                for message in due.messages:
                    tasks.create_task(self._publish(message))
            return 0
        return LONGEST_NAP if due.next_ms < 0 else min(LONGEST_NAP, due.next_ms / 1000)

    async def _publish(self, message: Message) -> None:
        try:
            await self._queue.publish(message)
        except (QueueFull, QueueUnavailable) as error:
            # Its lease ends and it is due again.
            log.warning("reaper.publish_failed", job_id=message.id, tenant=message.tenant, reason=error.code)
            return
        await self._store.queued(message)

    async def _purge(self, tag: str) -> float:
        gone = await self._store.purge(tag, retention=self._settings.job_retention, limit=BATCH)
        for tenant, job_id in gone:
            await self._forget(tenant, job_id)
        return 0 if len(gone) == BATCH else PURGE_EVERY
