"""The reaper: makes due things happen and forgets what is old. Every process runs one; they share the work.

A due entry is leased by the script that hands it out, so two reapers never publish the same attempt at once, and
what a dead one held comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
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
SHORTEST_NAP = 0.01  # when nothing could be handed out
AWAY_NAP = 1.0
PUT_OFF = (5.0, 10.0)  # while the broker is away or a queue is full; spread, so that not all come at once
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # for a queue that refused
PURGE_EVERY = 60.0
RECHECK_EVERY = 2.0
RECHECK_DELAY = 10.0  # from when Redis is back: by then workers have had what the broker still has for them

Forget = Callable[[str, str], Awaitable[None]]


class Reaper:
    """Publishes due jobs, recovers lost leases, expires, purges."""

    def __init__(self, store: JobStore, queue: JobQueue, settings: Settings, forget: Forget) -> None:
        self._store = store
        self._queue = queue
        self._settings = settings
        self._forget = forget
        self._pauses: dict[str, tuple[float, float]] = {}  # by queue: until when (loop time), and how long

    async def run(self) -> None:
        """Work until cancelled; Redis or the broker being away only makes it wait."""
        async with asyncio.TaskGroup() as tasks:
            for tag in self._store.tags():
                tasks.create_task(self._forever(self.step, tag, self._store.news(tag)))
                tasks.create_task(self._forever(self._recheck, tag))
                tasks.create_task(self._forever(self._purge, tag))

    async def _forever(
        self, step: Callable[[str], Awaitable[float]], tag: str, news: asyncio.Event | None = None
    ) -> None:
        while True:
            try:
                nap = await step(tag)
            except GatewayError as error:
                log.warning("reaper.waiting", reason=error.code)
                nap = AWAY_NAP
            await _nap(nap, news)

    async def step(self, tag: str) -> float:
        """Act once on what is due in a shard; returns how long to sleep, in seconds."""
        now = asyncio.get_running_loop().time()
        due = await self._store.due(
            tag,
            limit=BATCH,
            lease=LEASE,
            publish=self._queue.healthy(),
            blocked=[name for name, (until, _) in self._pauses.items() if until > now],
            put_off=random.uniform(*PUT_OFF),  # noqa: S311 - jitter
            max_admitted=self._settings.max_admitted_per_tenant,
            grace=self._settings.lease,
        )
        if due.lost:
            log.warning("reaper.leases_lost", count=due.lost)
        for failed in due.failed:
            log.error("reaper.entry_failed", entry=failed)
        if due.messages:
            await self._publish_all(due.messages)
            return 0
        nap = LONGEST_NAP if due.next_ms < 0 else due.next_ms / 1000
        return max(SHORTEST_NAP, min(LONGEST_NAP, nap))

    async def _publish_all(self, messages: list[Message]) -> None:
        refused: Counter[str] = Counter()
        async with asyncio.TaskGroup() as tasks:
            for message in messages:
                tasks.create_task(self._publish(message, refused))
        if refused:
            # Their leases end and they are due again.
            log.warning("reaper.publish_failed", **refused)

    async def _publish(self, message: Message, refused: Counter[str]) -> None:
        name = f"{message.pool}.{message.priority}"
        try:
            await self._queue.publish(message)
            self._pauses.pop(name, None)
            await self._store.queued(message)
        except (QueueFull, QueueUnavailable) as error:
            refused[error.code] += 1
            self._pause(name)
        except GatewayError as error:
            refused[error.code] += 1  # the broker has it: the claim records what could not be recorded here

    def _pause(self, name: str) -> None:
        now = asyncio.get_running_loop().time()
        until, length = self._pauses.get(name, (0.0, FIRST_PAUSE / 2))
        if until <= now:  # otherwise another message of the same batch has doubled it already
            length = min(length * 2, LONGEST_PAUSE)
            self._pauses[name] = (now + length, length)

    async def _recheck(self, tag: str) -> float:
        more = await self._store.recheck(tag, delay=RECHECK_DELAY)
        return SHORTEST_NAP if more else RECHECK_EVERY

    async def _purge(self, tag: str) -> float:
        retention = self._settings.job_retention
        jobs = await self._store.outdated(tag, retention=retention, limit=BATCH)
        for tenant, job_id in jobs:
            await self._forget(tenant, job_id)
        if jobs:
            await self._store.purge(tag, jobs, retention=retention)
        return 0 if len(jobs) == BATCH else PURGE_EVERY


async def _nap(seconds: float, news: asyncio.Event | None) -> None:
    """Sleep, or until there is news: a slot was freed by this process, and somebody waits for it."""
    if news is None:
        await asyncio.sleep(seconds)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await news.wait()
    news.clear()
