"""The heartbeats of all attempts of a worker: one timer, and one script for those that are due together.

Nobody waits for another's: one whose answer does not come, or who has much to keep, holds up nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

BEATS = 3  # within a lease: two may be missed


class Beating(Protocol):
    """Something with a lease."""

    async def beat(self) -> None:
        """Extend it. Never raises."""
        ...


class Pulse:
    """Lets everything registered beat at least every third of a lease; what is over sooner costs nothing."""

    def __init__(self, lease: float) -> None:
        self._every = lease / BEATS / 2  # looked at so often, and due after as long: at most a third of a lease apart
        self._last: dict[Beating, float] = {}
        self._beating: set[Beating] = set()

    @contextmanager
    def keep(self, *beating: Beating) -> Iterator[None]:
        """Let these beat inside the context."""
        now = asyncio.get_running_loop().time()
        self._last.update(dict.fromkeys(beating, now))
        try:
            yield
        finally:
            for each in beating:
                self._last.pop(each, None)

    async def run(self) -> None:
        """Beat until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            while True:
                await asyncio.sleep(self._every)
                now = loop.time()
                due = [each for each, last in self._last.items() if now - last >= self._every]
                for each in due:
                    if each not in self._beating:
                        self._last[each] = now
                        tasks.create_task(self._beat(each))

    async def _beat(self, each: Beating) -> None:
        self._beating.add(each)
        try:
            async with asyncio.timeout(2 * self._every):  # then the next one may be luckier
                await each.beat()
        except TimeoutError:
            log.warning("worker.heartbeat_unanswered")
        finally:
            self._beating.remove(each)
