"""Background tasks: one group owns them all; one that dies is restarted with backoff, loudly, and readiness knows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

import structlog

log = structlog.get_logger(__name__)

FIRST_NAP = 0.5
LONGEST_NAP = 30.0
STEADY = 60.0  # seconds after which an earlier death is forgotten


class Supervisor:
    """`async with Supervisor() as supervisor: supervisor.keep("reaper", reaper.run)`."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []
        self._down: set[str] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(None, None, None)

    @property
    def down(self) -> frozenset[str]:
        """The tasks that died and have not been steady since."""
        return frozenset(self._down)

    def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Keep a piece of work running until the end of the context."""
        self._tasks.append(self._group.create_task(self._keep(name, work), name=name))

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        nap = FIRST_NAP
        while True:
            began = loop.time()
            steady = loop.call_later(STEADY, self._down.discard, name)
            try:
                await work()
            except Exception:
                log.exception("task.died", task=name, restart_in=nap)
            else:
                return
            finally:
                steady.cancel()
            self._down.add(name)
            nap = FIRST_NAP if loop.time() - began > STEADY else min(nap * 2, LONGEST_NAP)
            await asyncio.sleep(nap)
