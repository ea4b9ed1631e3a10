"""The heartbeats of all attempts of a worker: one timer, and one script for those that are due together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

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
        while True:
            await asyncio.sleep(self._every)
            now = loop.time()
            due = [each for each, last in self._last.items() if now - last >= self._every]
            self._last.update(dict.fromkeys(due, now))
            async with asyncio.TaskGroup() as tasks:
                for each in due:
                    tasks.create_task(each.beat())
