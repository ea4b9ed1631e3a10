"""Batches: one call of a task with many jobs, each with an outcome of its own.

Every job of a batch is an ordinary attempt, claimed, beaten for, cancelled, timed out, recorded and acknowledged by
itself, whose work is to wait for its outcome; the call of the task's function gives the outcomes. So whatever holds for
a job holds for one in a batch, also when the worker dies in the middle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from consumers.context import Context
from consumers.outcome import TaskCancelled
from consumers.registry import Task
from consumers.severing import Severable
from consumers.threads import Slots
from gateway.jobs.model import Priority
from gateway.jobs.queue import Delivery

Spawn = Callable[[Coroutine[Any, Any, None]], object]

LINGER: Final = 10.0  # seconds the function may go on when all its jobs have ended


class Unresolved(Exception):
    """The function returned without an outcome for this job; it is tried again."""


class Item:
    """One job of a batch. The first outcome counts; one for a job that has ended otherwise meanwhile is ignored.

    Attributes:
        ctx: the job's context.
        input: its input.
    """

    def __init__(self, ctx: Context, job_input: Any) -> None:  # noqa: ANN401 - whatever JSON says
        self.ctx = ctx
        self.input = job_input
        self.settled = False
        self._loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[tuple[Any, Exception | None]] = self._loop.create_future()

    def succeed(self, result: object = None) -> None:
        """The job is done; from any thread. Recorded at once, whatever becomes of the others."""
        self._settle(result, None)

    def fail(self, error: Exception) -> None:
        """The job's attempt failed, as if it had raised this (`GiveUp`, `Retry`, …); from any thread."""
        self._settle(None, error)

    async def outcome(self) -> Any:  # noqa: ANN401 - whatever the task says
        """Wait for the outcome. For the worker."""
        result, error = await self._outcome
        if error is not None:
            raise error
        return result

    def _settle(self, result: object, error: Exception | None) -> None:
        if not self.settled:
            self.settled = True
            self._loop.call_soon_threadsafe(self._tell, result, error)

    def _tell(self, result: object, error: Exception | None) -> None:
        if not self._outcome.done():  # else the attempt has ended meanwhile
            self._outcome.set_result((result, error))


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch task is called with: jobs of one type, in the order they came. Iterating gives the items."""

    items: tuple[Item, ...]

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class Seat:
    """A delivery's place in a batch."""

    def __init__(self, gathering: Gathering) -> None:
        self._gathering = gathering
        self.item: Item | None = None
        self.left = False

    @property
    def task(self) -> Task:
        """What the attempt of this job runs: the wait for its outcome."""
        return self._gathering.task._replace(function=self._wait, runs_in="loop", batch=0)

    async def _wait(self, ctx: Context, job_input: Any) -> Any:  # noqa: ANN401 - a task's input and result
        ctx.stay()
        self.item = Item(ctx, job_input)
        self._gathering.changed()
        return await self.item.outcome()

    def leave(self) -> None:
        """The attempt is over, or there never was one."""
        self.left = True
        self._gathering.changed()


class Gathering:
    """One batch, from its first delivery to the end of the call."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.seats: list[Seat] = []
        self.full = asyncio.Event()
        self._decided = asyncio.Event()
        self._starts = False
        self._complete = asyncio.Event()
        self._work: asyncio.Task[BaseException | None] | None = None

    def join(self) -> Seat:
        """Take a seat; only while not full."""
        self.seats.append(Seat(self))
        if len(self.seats) >= self.task.batch:
            self.full.set()
        return self.seats[-1]

    def decide(self, *, starts: bool) -> None:
        """Tell the seats whether the batch starts."""
        self._starts = starts
        self._decided.set()

    async def starts(self) -> bool:
        """Wait until that is known."""
        await self._decided.wait()
        return self._starts

    def changed(self) -> None:
        """A seat has got its item, or is left."""
        if all(seat.item or seat.left for seat in self.seats):
            self._complete.set()
        if self._work is not None and all(seat.left for seat in self.seats):
            interrupted = any(seat.item and not seat.item.settled for seat in self.seats)
            asyncio.get_running_loop().call_later(0 if interrupted else LINGER, self._work.cancel)

    async def call(self, slots: Slots) -> None:
        """When every seat has its item or is left, call the function; what it leaves unresolved fails."""
        await self._complete.wait()
        items = tuple(seat.item for seat in self.seats if seat.item and not seat.left)
        if not items:
            return
        async with asyncio.TaskGroup() as tasks:
            self._work = tasks.create_task(self._invoke(Batch(items), slots))
            await asyncio.wait([self._work])
        ended_by = TaskCancelled("the batch was cancelled") if self._work.cancelled() else self._work.result()
        for item in items:
            item.fail(ended_by or Unresolved("the task returned without an outcome for this job"))

    async def _invoke(self, batch: Batch, slots: Slots) -> Exception | None:
        try:
            if self.task.runs_in == "loop":
                await Severable(self.task.function(batch))
            else:
                await slots.run(self.task.function, batch)
        except Exception as error:  # noqa: BLE001 - a task may raise anything; it is recorded with its jobs
            return error
        except SystemExit as error:
            return TaskCancelled(f"the task asked for the end of the process: {error}")
        return None


class Host(NamedTuple):
    """What batches need of their worker.

    Attributes:
        slots: one is held by each call.
        spawn: starts a task that the worker waits for.
        unless_stopped: waits for something; False when the worker was asked to stop first.
        take: claims and runs the job of a delivery; False when the worker was asked to stop before the claim.
    """

    slots: Slots
    spawn: Spawn
    unless_stopped: Callable[[Coroutine[Any, Any, None]], Awaitable[bool]]
    take: Callable[[Delivery, Seat], Awaitable[bool]]


class Batches:
    """The batches of a worker. Each delivery keeps its own handler; gathering and the call are one task per batch."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._open: dict[str, Gathering] = {}

    async def handle(self, delivery: Delivery, task: Task) -> bool:
        """Take a delivery to its end in a batch; False when the worker was asked to stop before it started."""
        gathering = self._open.get(task.name)
        if gathering is None:
            gathering = self._open[task.name] = Gathering(task)
            self._host.spawn(self._lead(gathering, delivery.message.priority))
        seat = gathering.join()
        if gathering.full.is_set():
            self._close(gathering)
        try:
            return await gathering.starts() and await self._host.take(delivery, seat)
        finally:
            seat.leave()

    def _close(self, gathering: Gathering) -> None:
        if self._open.get(gathering.task.name) is gathering:
            del self._open[gathering.task.name]

    async def _lead(self, gathering: Gathering, priority: Priority) -> None:
        """Wait for the window or a full batch, and a slot; then call the function."""
        async with AsyncExitStack() as held:
            starts = await self._host.unless_stopped(self._ready(gathering, priority, held))
            self._close(gathering)  # who came while all slots were taken still joined
            gathering.decide(starts=starts)
            if starts:
                await gathering.call(self._host.slots)

    async def _ready(self, gathering: Gathering, priority: Priority, held: AsyncExitStack) -> None:
        await _within(gathering.task.window, gathering.full)
        await held.enter_async_context(self._host.slots.turn(priority))


async def _within(limit: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(limit):
            await event.wait()
