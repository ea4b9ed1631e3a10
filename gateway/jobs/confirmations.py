"""Recording what the broker has confirmed, after the answer.

When a message is confirmed its job is safe: Redis holds it, and the broker hands it on. That it is `queued` is news for
those who watch, not part of that promise, so the submitter need not wait for it. Mostly there is not even news: a free
worker claims the job before, and its claim records queued and started together. So the confirmed ones wait a moment
here and are recorded many at a time. Should the process die meanwhile, the due set publishes the job once more, as
after any death between the confirm and its record, and the claim drops the message that is one too many.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

import structlog

from gateway.errors import GatewayError
from gateway.jobs.queue import Message
from gateway.jobs.records import Confirmed
from gateway.jobs.store import JobStore

log = structlog.get_logger(__name__)

NAP: Final = 0.02  # seconds a job may look accepted although it is queued; a free worker needs less
MOST: Final = 1000  # that wait; past it a submitter records its own, and so waits for Redis
AT_ONCE: Final = 64
FLUSH: Final = 1.0  # seconds a stop waits for Redis


class Confirmations:
    """The confirmed attempts of this process that are not recorded yet. `run` records them."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._waiting: deque[Confirmed] = deque()
        self._news = asyncio.Event()

    def note(self, message: Message) -> bool:
        """Have it recorded soon; False when too many wait."""
        if len(self._waiting) >= MOST:
            return False
        self._waiting.append(Confirmed(message.tenant, message.id, message.run, message.attempt))
        self._news.set()
        return True

    async def run(self) -> None:
        """Record until cancelled, and then what is left."""
        try:
            while True:
                await self._news.wait()
                await asyncio.sleep(NAP)
                self._news.clear()
                await self._record_all()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH):
                    await self._record_all()

    async def _record_all(self) -> None:
        while self._waiting:
            some = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
            async with asyncio.TaskGroup() as tasks:
                for confirmed in some:
                    tasks.create_task(self._record(confirmed))

    async def _record(self, confirmed: Confirmed) -> None:
        try:
            await self._store.queued(confirmed)
        except GatewayError as error:
            # The broker has it; the claim records what could not be recorded here.
            log.warning("job.queued_unrecorded", job_id=confirmed.id, tenant=confirmed.tenant, reason=error.code)
