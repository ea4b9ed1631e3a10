"""The worker: consume → claim → run → record → acknowledge (DESIGN 4.4)."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import structlog

from consumers.attempt import Attempt, Tools, until_stored
from consumers.context import Context
from consumers.outcome import GiveUp, describe
from consumers.registry import Task
from gateway.errors import Conflict, GatewayError, StoreUnavailable
from gateway.jobs.attachments import Attachments
from gateway.jobs.model import PRIORITIES
from gateway.jobs.queue import Delivery, JobQueue, Message
from gateway.jobs.rebuild import Rebuilder
from gateway.jobs.store import Claim, JobStore
from gateway.settings import Settings

log = structlog.get_logger(__name__)

REGISTER_EVERY = 10.0  # the types are told again in case Redis forgot them
AWAY_NAP = 0.5


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


class Worker:
    """Runs the tasks of one pool, so many at a time."""

    def __init__(self, queue: JobQueue, store: JobStore, rebuilder: Rebuilder, settings: Settings, plan: Plan) -> None:
        self._queue = queue
        self._store = store
        self._rebuilder = rebuilder
        self._settings = settings
        self._plan = plan
        self._tasks = {name: task for name, task in plan.tasks.items() if task.pool == plan.pool}
        self._attachments = Attachments(settings.attachments_dir)
        self._slots = asyncio.Semaphore(plan.concurrency)
        self._running: set[Attempt] = set()
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._name = f"{socket.gethostname()}-{secrets.token_hex(3)}"

    def stop(self) -> None:
        """Ask for a graceful stop: nothing new is started, running jobs get their grace, the rest goes back."""
        self._stopping.set()

    async def stopped(self) -> None:
        """Wait until `run` has returned after `stop`."""
        await self._stopped.wait()

    async def run(self) -> None:
        """Work until `stop` is called."""
        threads = ThreadPoolExecutor(self._plan.concurrency * 2, thread_name_prefix="task")
        tools = Tools(store=self._store, settings=self._settings, module=self._plan.module, threads=threads)
        prefetch: dict[str, int] = dict.fromkeys(PRIORITIES, self._plan.concurrency)

        async def on_delivery(delivery: Delivery) -> None:
            await self._handle(delivery, tools)

        try:
            async with asyncio.TaskGroup() as tasks:
                # The queues stand before the types are known: a submission must not meet a missing queue.
                if not await self._unless_stopped(self._queue.declare(self._plan.pool)):
                    return
                announcing = tasks.create_task(self._announce())
                async with self._queue.consume(self._plan.pool, prefetch, on_delivery):
                    log.info("worker.ready", worker=self._name, pool=self._plan.pool)
                    await self._stopping.wait()
                    await self._drain()
                announcing.cancel()
        finally:
            # Threads of abandoned attempts end when they next look at their context.
            threads.shutdown(wait=False, cancel_futures=True)
            if self._stopping.is_set():
                self._stopped.set()

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
        types = {task.name: (task.pool, task.max_attempts, task.timeout) for task in self._tasks.values()}
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
        log.info("worker.stopping", worker=self._name, running=len(self._running))
        try:
            async with asyncio.timeout(self._plan.grace):
                await self._idle.wait()
        except TimeoutError:
            for attempt in list(self._running):
                attempt.release()
            await self._idle.wait()

    async def _handle(self, delivery: Delivery, tools: Tools) -> None:
        """Take a delivery to its end. Cancelled when the consumer closes: the message goes back by itself."""
        async with self._slots:
            if self._stopping.is_set():
                # Not requeued: the broker would send it straight back. Closing the consumer returns it.
                await asyncio.Event().wait()
            message = delivery.message
            with structlog.contextvars.bound_contextvars(job_id=message.id, tenant=message.tenant):
                token = secrets.token_hex(8)
                claim = await until_stored(lambda: self._claim(message, token))
                if isinstance(claim, str):
                    log.debug("worker.dropped", why=claim)
                else:
                    if claim.timeout > self._settings.consumer_timeout:
                        await delivery.ack()  # the broker would take it for stuck; lease and reaper own it now
                    await self._run(message, claim, tools)
                await delivery.ack()

    async def _claim(self, message: Message, token: str) -> Claim | str:
        claim = await self._store.claim(message, token=token, lease=self._settings.lease, worker=self._name)
        if claim != "missing":
            return claim
        if not await self._rebuilder.rebuild(message):
            return "older than what is kept"
        return await self._store.claim(message, token=token, lease=self._settings.lease, worker=self._name)

    async def _run(self, message: Message, claim: Claim, tools: Tools) -> None:
        task = self._tasks.get(message.type)
        if task is None:
            await self._refuse(message, claim)
            return
        ctx = Context(message, claim.max_attempts, self._settings, self._attachments)
        attempt = Attempt(tools, message, task, claim, ctx)
        self._running.add(attempt)
        self._idle.clear()
        try:
            await attempt.run()
        finally:
            self._running.discard(attempt)
            if not self._running:
                self._idle.set()

    async def _refuse(self, message: Message, claim: Claim) -> None:
        """Another worker of the pool may know the type: give it one more chance after a while."""
        error = describe(GiveUp(f"this worker has no task {message.type!r}"), message.attempt, retryable=True)
        last = message.attempt >= claim.max_attempts
        try:
            await until_stored(
                lambda: self._store.advance(
                    message.tenant,
                    message.id,
                    fence=claim.fence,
                    op=1,
                    to="failed" if last else "retrying",
                    error=error,
                    delay_ms=10_000,
                    lease_ms=int(self._settings.lease * 1000),
                )
            )
        except (Conflict, StoreUnavailable) as refused:
            log.warning("worker.refusal_unrecorded", reason=refused.code)
