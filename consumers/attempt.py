"""One attempt of one job: run the task, beat, report progress, record what came of it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
import structlog

from consumers.children import Children, suspension
from consumers.compensation import Compensation
from consumers.context import Cancelled, Context
from consumers.desk import Desk, Services
from consumers.outcome import GiveUp, Snooze, Suspended, TaskCancelled, TaskTimeout, after_error, encode_result
from consumers.patience import until_stored
from consumers.process import run_in_process
from consumers.publishing import Publisher
from consumers.pulse import Pulse
from consumers.registry import Task
from consumers.saga import Steps
from consumers.severing import Severable
from consumers.threads import Slots
from gateway.errors import GatewayError, StaleFence
from gateway.jobs.arguments import Arguments
from gateway.jobs.attachments import Attachments
from gateway.jobs.model import INLINE_RESULT
from gateway.jobs.queue import Message
from gateway.jobs.records import Claim, Holder
from gateway.jobs.sagas import SagaStore
from gateway.jobs.store import JobStore
from gateway.settings import Settings

log = structlog.get_logger(__name__)

PROGRESS_EVERY = 0.1

_jitter = Random()  # noqa: S311 - spreads retries, guards nothing


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What every attempt in a worker shares."""

    store: JobStore
    settings: Settings
    module: str
    slots: Slots
    sagas: SagaStore
    arguments: Arguments
    pulse: Pulse
    attachments: Attachments
    services: Services


class Attempt:
    """A claimed job on this worker.

    It costs one task, that of the work. Heartbeats are the worker's (`Pulse`); a task for reports exists only while
    there is something to report.
    """

    def __init__(self, tools: Tools, message: Message, task: Task | None, claim: Claim, ctx: Context) -> None:
        self._tools = tools
        self._message = message
        self._task = task
        self._claim = claim
        self._ctx = ctx
        self._op = 0
        self._stopped_as = ""  # why we cancelled the work: "released", "cancelled" (both recorded so) or "overtaken"
        self._fault: Exception | None = None  # what to record when we ended the task for something that befell it
        self._holder = Holder.of(message.tenant, message.id, claim)
        self._desk = self._open_desk()
        self._over = asyncio.Event()
        self._group = asyncio.TaskGroup()
        self._runner: asyncio.Task[Any] | None = None
        self._reporter: asyncio.Task[None] | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._leaving = False
        children = Children(tools.sagas, self._holder, message, tools.arguments, self._large_result)
        ctx.bind(Steps(tools.sagas, self._holder), children)

    def _open_desk(self) -> Desk:
        lease, services = self._tools.settings.lease, self._tools.services
        publisher = Publisher(services.channels, self._message)
        self._ctx.desk = Desk(services, self._holder, self._claim.snoozes, lease, self._end, publisher)
        return self._ctx.desk

    def release(self) -> None:
        """Give the job back unfinished: the worker stops. The attempt is not burnt."""
        self._leaving = True
        self._stop("released")

    def _ask(self) -> None:
        """Somebody cancelled the job: ask the task to end, and stop it when its grace is over."""
        if self._at_work and self._grace is None and not self._over.is_set():  # an undo is not asked
            grace = self._known().cancel_grace
            self._grace = asyncio.get_running_loop().call_later(grace, self._stop, "cancelled")
            self._ctx.cancel()

    @property
    def _at_work(self) -> bool:
        return self._runner is not None and not self._runner.done()

    def _stop(self, recorded_as: str) -> None:
        self._stopped_as = recorded_as
        self._cancel()

    def _end(self, fault: Exception) -> None:
        self._fault = fault
        self._cancel()

    def _cancel(self) -> None:
        self._ctx.cancelled = True
        self._desk.grips.hurry()
        if self._runner is not None:
            self._runner.cancel()

    async def run(self) -> None:
        """Run to the end and record it; returns quietly when the job is another worker's by then."""
        facts: dict[str, Any] = {}
        with self._tools.pulse.keep(self):
            if not self._claim.turned:
                async with self._group:
                    facts = await self._outcome()
                    await self._finish_report()
            try:
                if self._stopped_as != "overtaken":
                    await self._conclude(facts)
            except StaleFence:
                self._stopped_as = "overtaken"
        if self._stopped_as == "overtaken":
            self._ctx.cancelled = True
            log.warning("attempt.overtaken", job_id=self._message.id, fence=self._claim.fence)

    async def _conclude(self, facts: dict[str, Any]) -> None:
        """Record what came of it, and undo it where that is what follows; raises StaleFence."""
        if self._claim.turned or await self._record(**facts) == "compensating":
            await self._compensate()

    async def _compensate(self) -> None:
        """Undo the job, whose lease goes on being ours."""
        facts: dict[str, Any] = {"to": "released"}
        if not self._leaving:
            self._stopped_as, self._fault = "", None  # those were the task's
            self._desk = self._open_desk()  # as above: that one has been closed
            tools = self._tools
            undoing = Compensation(tools.sagas, self._holder, self._message, self._ctx, tools.slots, self._befallen)
            try:
                async with asyncio.TaskGroup() as tasks:
                    runner = self._runner = tasks.create_task(undoing.run(_jitter))
            except* StaleFence:
                self._stopped_as = "overtaken"
            await self._desk.close(abandoned=undoing.in_threads)
            if self._stopped_as == "overtaken":
                return
            if not runner.cancelled():
                facts = runner.result()
        await self._record(**facts)

    def _befallen(self) -> Exception | None:
        return None if self._stopped_as else self._fault

    def _known(self) -> Task:
        if self._task is None:
            raise AssertionError("a job without a task is only undone")
        return self._task

    async def _large_result(self, job_id: str) -> bytes | None:
        result = await until_stored(lambda: self._tools.store.result(self._message.tenant, job_id))
        return result.json if result else None

    async def _outcome(self) -> dict[str, Any]:
        self._runner = self._group.create_task(self._work())
        self._ctx.on_progress(self._report_soon)
        try:
            await asyncio.wait([self._runner])
        finally:
            self._ctx.cancelled = True  # also of a thread when we are cancelled ourselves
        if self._grace is not None:
            self._grace.cancel()
        await self._desk.close(abandoned=self._known().runs_in == "thread")
        progress = self._ctx.take_progress()
        if self._runner.cancelled():
            if self._stopped_as:
                return {"to": self._stopped_as, "progress": progress}
            return {**self._failure(self._fault or TaskCancelled("the task cancelled itself")), "progress": progress}
        return {**self._runner.result(), "progress": progress}

    async def _work(self) -> dict[str, Any]:
        """Run the task; returns the facts to record. Never raises but for cancelling."""
        try:
            async with asyncio.timeout(self._claim.timeout) as limit:
                self._desk.deadline = limit.when() or self._desk.deadline
                result = await self._call()
            return self._success(result)
        except Cancelled as error:
            return self._failure(error) if self._grace is None else {"to": "cancelled"}
        except TimeoutError as error:
            shown = TaskTimeout(f"took longer than {self._claim.timeout:g} s") if limit.expired() else error
            return self._failure(shown)
        except (Exception, SystemExit, Suspended, BaseExceptionGroup) as error:  # noqa: BLE001 - a task may raise anything; it is recorded with the job
            return suspension(error) or self._failure(error)

    async def _call(self) -> bytes:
        body = bytes(self._message.input)
        task, tools = self._known(), self._tools
        if task.runs_in == "process":
            limit = tools.settings.max_result_bytes
            return await run_in_process(task, tools.module, self._ctx, body, max_result=limit)
        job_input = msgspec.json.decode(body)
        if task.runs_in == "loop":
            return encode_result(await Severable(task.function(self._ctx, job_input)))
        return encode_result(await tools.slots.run(task.function, self._ctx, job_input))

    def _success(self, result: bytes) -> dict[str, Any]:
        limit = self._tools.settings.max_result_bytes
        if len(result) > limit:
            return self._failure(GiveUp(f"the result has {len(result)} bytes, more than {limit}"))
        return {"to": "succeeded", "result": result.decode(), "apart": len(result) > INLINE_RESULT}

    def _failure(self, error: BaseException) -> dict[str, Any]:
        outcome = after_error(
            error,
            attempt=self._message.attempt,
            max_attempts=self._claim.max_attempts,
            random=_jitter,
            policy=self._known().policy,
        )
        log.warning(
            "attempt.failed",
            job_id=self._message.id,
            type=self._message.type,
            attempt=self._message.attempt,
            to=outcome.to,
            exc_info=None if isinstance(error, GiveUp | Snooze) else error,
        )
        return {"to": outcome.to, "error": outcome.error, "delay_ms": int(outcome.delay * 1000)}

    async def beat(self) -> None:
        """Extend the lease; called by `Pulse`. Learns of a cancellation, or that the job is another worker's."""
        message, settings = self._message, self._tools.settings
        try:
            cancelling = await self._tools.store.heartbeat(
                message.tenant, message.id, self._claim.fence, settings.lease
            )
        except StaleFence:
            if self._at_work:  # else the record says so
                self._stop("overtaken")
        except GatewayError as error:
            log.warning("attempt.heartbeat_missed", job_id=message.id, reason=error.code)
        else:
            if cancelling:
                self._ask()
            await self._desk.grips.keep()

    def _report_soon(self) -> None:
        """There is progress; called in the loop, from the first report on at every one."""
        if self._reporter is None and not self._ctx.cancelled:
            self._reporter = self._group.create_task(self._report())

    async def _report(self) -> None:
        try:
            while not self._over.is_set() and (progress := self._ctx.take_progress()) is not None:
                if await self._record(to="progress", progress=progress) == "cancelling":
                    self._ask()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PROGRESS_EVERY):
                        await self._over.wait()
        except StaleFence:
            self._stop("overtaken")
        finally:
            self._reporter = None

    async def _finish_report(self) -> None:
        """Let a report under way end, rather than cancel it, so that it does not meet the next operation."""
        self._over.set()
        if self._reporter is not None:
            await asyncio.wait([self._reporter])

    async def _record(self, **facts: Any) -> str:  # noqa: ANN401 - the facts of advance.lua
        """Record facts; returns the job's state."""
        self._op += 1
        op = self._op
        _, state = await until_stored(
            lambda: self._tools.store.advance(
                self._message.tenant,
                self._message.id,
                fence=self._claim.fence,
                op=op,
                lease_ms=int(self._tools.settings.lease * 1000),
                **facts,
            )
        )
        return state
