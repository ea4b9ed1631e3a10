"""The worker: consume → claim → run → record → acknowledge (DESIGN 4.4)."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog

from consumers.attempt import Attempt, Tools
from consumers.batch import Batches, Host, Seat, Spawn
from consumers.context import Context
from consumers.desk import Services
from consumers.outcome import GiveUp, describe
from consumers.patience import until_stored
from consumers.pulse import Pulse
from consumers.registry import Task
from consumers.threads import Slots
from gateway.errors import Conflict, GatewayError, StaleFence, StoreUnavailable
from gateway.jobs.attachments import open_attachments
from gateway.jobs.model import PRIORITIES
from gateway.jobs.queue import Delivery, JobQueue, Message
from gateway.jobs.rebuild import Rebuilder
from gateway.jobs.records import Claim
from gateway.jobs.sagas import SagaStore
from gateway.jobs.store import JobStore
from gateway.settings import Settings

log = structlog.get_logger(__name__)

REGISTER_EVERY = 10.0  # the types are told again in case Redis forgot them
AWAY_NAP = 0.5
RECORD_LIMIT: Final = 5.0  # seconds a stop waits for Redis to hear what became of the jobs; their leases recover them


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a worker does.

    Attributes:
        tasks: by job type; those of other pools are left alone.
        module: where they are registered, for the processes that import it again.
        pool: whose jobs it runs.
        concurrency: jobs at a time.
        grace: seconds running jobs get when the worker stops.
    """

    tasks: Mapping[str, Task]
    module: str
    pool: str = "default"
    concurrency: int = 10
    grace: float = 20.0


def ahead(concurrency: int) -> int:
    """Return how many deliveries of a class are taken beyond those that can run.

    Who waits for a slot is who takes turns for it. With a single slot there are none: they would wait behind one long
    job while other workers are idle.
    """
    return min(2, concurrency - 1)


class WorkerStuck(Exception):
    """Threads that do not end hold all slots; only a new process can go on."""


class Worker:
    """Runs the tasks of one pool, so many at a time."""

    def __init__(self, queue: JobQueue, store: JobStore, rebuilder: Rebuilder, settings: Settings, plan: Plan) -> None:
        self._queue = queue
        self._store = store
        self._rebuilder = rebuilder
        self._settings = settings
        self._plan = plan
        self._tasks = {name: task for name, task in plan.tasks.items() if task.pool == plan.pool}
        self._slots = Slots(plan.concurrency, self._give_up)
        self._stuck = False
        self._running: set[Attempt] = set()
        self._busy = 0  # deliveries between claim and acknowledgement
        self._asked = False
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._stopped = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._name = f"{socket.gethostname()}-{secrets.token_hex(3)}"

    def stop(self) -> None:
        """Ask for a graceful stop: nothing new is started, running jobs get their grace, the rest goes back.

        Asked again, nothing is waited for: leases recover the jobs.
        """
        if self._asked:
            self._hurry.set()
        self._asked = True
        self._stopping.set()

    def _give_up(self) -> None:
        if not self._stopping.is_set():
            log.error("worker.stuck", worker=self._name, abandoned=self._slots.abandoned)
            self._stuck = True
            self._stopping.set()

    async def stopped(self) -> None:
        """Wait until `run` has returned after `stop`."""
        await self._stopped.wait()

    async def run(self) -> None:
        """Work until `stop` is called.

        Raises:
            WorkerStuck: no job can run any more in this process; what else ran has been finished or given back.
        """
        try:
            async with open_attachments(self._settings) as attachments, asyncio.TaskGroup() as tasks:
                tools = Tools(
                    store=self._store,
                    settings=self._settings,
                    module=self._plan.module,
                    slots=self._slots,
                    sagas=SagaStore(self._store),
                    arguments=self._rebuilder.arguments,
                    pulse=Pulse(self._settings.lease),
                    attachments=attachments,
                    services=Services.of(self._store.redis, self._settings),
                )
                # The queues stand before the types are known: a submission must not meet a missing queue.
                if await self._unless_stopped(self._queue.declare(self._plan.pool)):
                    helping = [tasks.create_task(work) for work in (self._announce(), tools.pulse.run())]
                    await self._consume(tools, tasks.create_task)
                    for helper in helping:
                        helper.cancel()
        finally:
            if self._stopping.is_set():
                self._stopped.set()
        if self._stuck:
            raise WorkerStuck("tasks that ignored their timeout hold all threads; the worker must be replaced")

    async def _consume(self, tools: Tools, spawn: Spawn) -> None:
        # Room for a batch to be gathered while another one runs.
        largest = max((task.batch for task in self._tasks.values()), default=0)
        concurrency = self._plan.concurrency
        prefetch: dict[str, int] = dict.fromkeys(PRIORITIES, concurrency + ahead(concurrency) + 2 * largest)
        batches = Batches(Host(self._slots, spawn, self._unless_stopped, partial(self._take_if_not_stopping, tools)))

        async def on_delivery(delivery: Delivery) -> None:
            await self._handle(delivery, tools, batches)

        async with self._queue.consume(self._plan.pool, prefetch, on_delivery):
            log.info("worker.ready", worker=self._name, pool=self._plan.pool)
            await self._stopping.wait()
            await self._drain()

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do something that may wait for the broker as long as it takes; False when the stop came first."""
        async with asyncio.TaskGroup() as tasks:
            doing, stopping = tasks.create_task(work), tasks.create_task(self._stopping.wait())
            await asyncio.wait([doing, stopping], return_when=asyncio.FIRST_COMPLETED)
            finished = doing.done()
            doing.cancel()
            stopping.cancel()
        return finished

    async def _announce(self) -> None:
        types = {task.name: task.announced() for task in self._tasks.values()}
        told = False
        while True:
            try:
                await self._store.register(types)
            except GatewayError as error:
                log.warning("worker.not_registered", reason=error.code)
                await asyncio.sleep(AWAY_NAP)
                continue
            if not told:
                told = True
                log.info("worker.registered", worker=self._name, types=sorted(types))
            await asyncio.sleep(REGISTER_EVERY)

    async def _drain(self) -> None:
        log.info("worker.stopping", worker=self._name, busy=self._busy)
        if await self._idle_within(self._plan.grace):
            return
        for attempt in list(self._running):
            attempt.release()
        if not await self._idle_within(RECORD_LIMIT):
            log.warning("worker.left_unfinished", worker=self._name, busy=self._busy)

    async def _idle_within(self, limit: float) -> bool:
        """Wait until nothing runs, for so many seconds or until there is a hurry."""
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(self._idle.wait()), tasks.create_task(self._hurry.wait())]
            await asyncio.wait(waiting, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
        return self._idle.is_set()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Count as busy, from before the claim: a stop must not leave between the claim and the run."""
        self._busy += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()

    async def _handle(self, delivery: Delivery, tools: Tools, batches: Batches) -> None:
        """Take a delivery to its end. Cancelled when the consumer closes: the message goes back by itself."""
        task = self._tasks.get(delivery.message.type)
        if task is not None and task.batch:
            ended = await batches.handle(delivery, task)
        else:
            async with self._slots.turn(delivery.message.priority):
                ended = await self._take_if_not_stopping(tools, delivery)
        if not ended:
            # Not requeued: the broker would send it straight back. Closing the consumer returns it.
            await asyncio.Event().wait()

    async def _take_if_not_stopping(self, tools: Tools, delivery: Delivery, seat: Seat | None = None) -> bool:
        message = delivery.message
        if self._stopping.is_set():
            return False
        with self._working(), structlog.contextvars.bound_contextvars(job_id=message.id, tenant=message.tenant):
            return await self._take(delivery, tools, seat)

    async def _take(self, delivery: Delivery, tools: Tools, seat: Seat | None) -> bool:
        """Claim and run; False when the stop came before the claim."""
        message = delivery.message
        claim = await self._until_claimed(message)
        if claim is None:
            return False
        if isinstance(claim, str):
            log.debug("worker.dropped", why=claim)
        elif self._stopping.is_set():
            await self._record(message, claim, to="released")
        else:
            if claim.turned or claim.timeout > self._settings.consumer_timeout:
                await delivery.ack()  # the broker would take it for stuck; lease and reaper own it now
            await self._run(message, claim, tools, seat)
        await delivery.ack()
        return True

    async def _until_claimed(self, message: Message) -> Claim | str | None:
        """Claim, waiting for Redis; None when the stop comes first."""
        token = secrets.token_hex(8)
        while not self._stopping.is_set():
            try:
                return await self._claim(message, token)
            except StoreUnavailable:
                log.warning("store.waiting")
                await self._unless_stopped(asyncio.sleep(AWAY_NAP))
        return None

    async def _claim(self, message: Message, token: str) -> Claim | str:
        claim = await self._store.claim(message, token=token, lease=self._settings.lease, worker=self._name)
        if claim != "missing":
            return claim
        if not await self._rebuilder.rebuild(message):
            return "older than what is kept"
        return await self._store.claim(message, token=token, lease=self._settings.lease, worker=self._name)

    async def _run(self, message: Message, claim: Claim, tools: Tools, seat: Seat | None) -> None:
        if seat and claim.turned:
            seat.leave()  # it is only undone, which the batch need not wait for
        task = seat.task if seat else self._tasks.get(message.type)
        if task is None and not claim.turned:  # undoing needs none
            await self._refuse(message, claim)
            return
        ctx = Context(message, claim.max_attempts, self._settings, tools.attachments)
        attempt = Attempt(tools, message, task, claim, ctx)
        self._running.add(attempt)
        try:
            await attempt.run()
        finally:
            self._running.discard(attempt)

    async def _refuse(self, message: Message, claim: Claim) -> None:
        """Another worker of the pool may know the type: give it one more chance after a while."""
        error = describe(GiveUp(f"this worker has no task {message.type!r}"), message.attempt, retryable=True)
        last = message.attempt >= claim.max_attempts
        await self._record(message, claim, to="failed" if last else "retrying", error=error, delay_ms=10_000)

    async def _record(self, message: Message, claim: Claim, **facts: Any) -> None:  # noqa: ANN401 - those of advance.lua
        """Record the only operation of a claim whose job is not run."""
        lease_ms = int(self._settings.lease * 1000)
        step = partial(self._store.advance, message.tenant, message.id, fence=claim.fence, op=1, lease_ms=lease_ms)
        try:
            await until_stored(lambda: step(**facts))
        except (Conflict, StaleFence) as refused:
            log.warning("worker.unrecorded", to=facts["to"], reason=refused.code)
