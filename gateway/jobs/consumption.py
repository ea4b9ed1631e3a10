"""What both queues share on the consuming side: tasks for deliveries, and an orderly end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from random import uniform
from typing import Final, Generic, TypeVar

import structlog

from gateway.jobs.queue import Returnable

D = TypeVar("D", bound=Returnable)

log = structlog.get_logger(__name__)

FAILED_NAP: Final = 1.0  # seconds, jittered: what fails at once must not use up its deliveries in milliseconds


class Consumption(AbstractAsyncContextManager[None], ABC, Generic[D]):
    """The context of `JobQueue.consume`: owns the task that receives and the tasks that handle."""

    def __init__(self, handler: Callable[[D], Awaitable[None]]) -> None:
        self._handler = handler
        self._group = asyncio.TaskGroup()
        self._handling: set[asyncio.Task[None]] = set()
        self._feeding: asyncio.Task[None] | None = None
        self._closing = False
        self._opened = asyncio.Event()

    @abstractmethod
    async def feed(self) -> None:
        """Receive until cancelled: `opened` when messages can come, `start` for each.

        What it raises ends the consumption, and is raised to its user in a group.
        """

    def opened(self) -> None:
        """Tell that messages can come now."""
        self._opened.set()

    def start(self, delivery: D) -> None:
        """Handle a delivery in a task of its own. At the end nothing is started: the message stays unsettled."""
        self.spawn(self._handle(delivery))

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run something as a task that ends with the handlers; at the end it is not begun."""
        if self._closing:
            work.close()
            return
        task = self._group.create_task(work)
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)

    async def _handle(self, delivery: D) -> None:
        try:
            await self._handler(delivery)
        except Exception:
            log.exception("queue.handler_failed", **delivery.about)
            await asyncio.sleep(uniform(0.5, 1.5) * FAILED_NAP)  # noqa: S311 - spreads load, guards nothing
            await delivery.requeue()

    async def __aenter__(self) -> None:
        await self._group.__aenter__()
        self._feeding = self._group.create_task(self.feed())
        try:
            await self._opened.wait()
        except BaseException:
            await self._close()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _close(self) -> None:
        self._closing = True
        try:
            # Handlers end first: what they settle while they end still needs the connection.
            for task in self._handling:
                task.cancel()
            if self._handling:
                await asyncio.wait(self._handling)
        finally:
            if self._feeding is not None:
                self._feeding.cancel()
            # Without the body's exception: the group would wrap it.
            await self._group.__aexit__(None, None, None)
