"""Plain functions in daemon threads of their own, and the slots that threads nobody waits for keep.

Not an executor: a thread cannot be ended from outside. One that ignores its timeout would fill an executor for good,
and the interpreter would wait for it at the end.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, TypeVar

import structlog

from consumers.outcome import Suspended
from consumers.turns import Turns
from gateway.jobs.model import Priority

T = TypeVar("T")

log = structlog.get_logger(__name__)

STUCK_AFTER: Final = 10.0  # seconds abandoned threads have to notice, until a worker they fill gives up


class Ended(NamedTuple):
    """How a thread ended: with a value, or an error."""

    value: Any
    error: BaseException | None

    def result(self) -> Any:  # noqa: ANN401 - the function's own
        """Return the value, or raise the error."""
        if self.error is None:
            return self.value
        if isinstance(self.error, Exception | SystemExit | asyncio.CancelledError | Suspended):
            raise self.error
        # What else there is (KeyboardInterrupt …) means the whole program, and a task does not speak for that.
        raise RuntimeError(f"the function raised {type(self.error).__name__}") from self.error


def start_thread(function: Callable[..., Any], *arguments: object) -> asyncio.Future[Ended]:
    """Start a function in a daemon thread, with a copy of the context variables; the future tells how it ended."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Ended] = loop.create_future()
    context = contextvars.copy_context()

    def tell(outcome: Ended) -> None:
        if not ended.done():
            ended.set_result(outcome)

    def work() -> None:
        try:
            outcome = Ended(context.run(function, *arguments), None)
        except BaseException as error:  # noqa: BLE001 - raised again by who asks for the result
            outcome = Ended(None, error)
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody is left to tell
            loop.call_soon_threadsafe(tell, outcome)

    threading.Thread(target=work, name=f"task-{getattr(function, '__name__', '')}", daemon=True).start()
    return ended


def in_loop(loop: asyncio.AbstractEventLoop, work: Callable[[], Awaitable[T]]) -> T:
    """Have something awaited in a loop, from a thread, and wait for it; raises what it raises.

    It begins there: `asyncio.run_coroutine_threadsafe` leaves a coroutine nobody awaits when the loop ends first.
    """
    ended: concurrent.futures.Future[T] = concurrent.futures.Future()

    async def run() -> T:
        return await work()

    def tell(task: asyncio.Task[T]) -> None:
        if task.cancelled():
            ended.cancel()
        elif (error := task.exception()) is not None:
            ended.set_exception(error)
        else:
            ended.set_result(task.result())

    loop.call_soon_threadsafe(lambda: loop.create_task(run()).add_done_callback(tell))
    return ended.result()


class Slots:
    """How many jobs run at a time. `slots.turn(class)` holds one; so does a thread whose attempt ended without it.

    Args:
        number: how many there are.
        on_stuck: called when abandoned threads have held all of them for `STUCK_AFTER` seconds.
    """

    def __init__(self, number: int, on_stuck: Callable[[], None]) -> None:
        self._number = number
        self._on_stuck = on_stuck
        self._free = Turns(number)
        self._abandoned = 0
        self._debt = 0  # slots to be kept back when they are given back
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def abandoned(self) -> int:
        """Threads that still run although their attempt has ended."""
        return self._abandoned

    @asynccontextmanager
    async def turn(self, priority: Priority) -> AsyncIterator[None]:
        """Hold a slot within the context; classes that wait for one take weighted turns."""
        await self._free.acquire(priority)
        try:
            yield
        finally:
            self._release()

    async def run(self, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - the function's own
        """Run a function in a thread. Cancelling leaves the thread alone, with a slot until it ends."""
        ended = start_thread(function, *arguments)
        try:
            return (await asyncio.shield(ended)).result()
        finally:
            if not ended.done():
                self._abandon()
                ended.add_done_callback(self._recover)

    def _abandon(self) -> None:
        self._abandoned += 1
        self._debt += 1
        log.warning("worker.thread_abandoned", abandoned=self._abandoned, slots=self._number)
        if self._abandoned >= self._number and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(STUCK_AFTER, self._on_stuck)

    def _recover(self, ended: asyncio.Future[Ended]) -> None:
        self._abandoned -= 1
        log.info("worker.thread_ended", abandoned=self._abandoned, error=repr(ended.result().error))
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._release()

    def _release(self) -> None:
        if self._debt:
            self._debt -= 1
        else:
            self._free.release()
