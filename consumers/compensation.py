"""Undoing a job: its recorded steps in reverse order, each recorded, by whichever worker holds the job."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from copy import copy
from random import Random
from typing import Any, Final

import msgspec
import structlog

from consumers.context import Context
from consumers.outcome import (
    GiveUp,
    Retry,
    Snooze,
    TaskCancelled,
    TaskTimeout,
    backoff,
    describe,
    shown,
    telling,
    within,
)
from consumers.patience import until_stored
from consumers.saga import next_undo, with_status
from consumers.severing import Severable
from consumers.threads import Slots
from consumers.undos import Undo, find_undo
from gateway.jobs.queue import Message
from gateway.jobs.records import Holder
from gateway.jobs.sagas import Recorded, SagaStore, StepRecord

log = structlog.get_logger(__name__)

UNKNOWN_TRIES: Final = 10  # of an undo no worker seems to know: one may be on its way with the next release


class CompensationFailed(Exception):
    """A step could not be undone. The job waits in the dead letters; running it again goes on undoing it."""


class UnknownUndo(Exception):
    """This worker has no undo of that name."""


class Compensation:
    """Undoes what a job has done, in one try per step.

    Attributes:
        in_threads: an undo ran in a thread, which may still be at work.
    """

    def __init__(
        self,
        store: SagaStore,
        holder: Holder,
        message: Message,
        ctx: Context,
        slots: Slots,
        befallen: Callable[[], Exception | None],
    ) -> None:
        self._store = store
        self._holder = holder
        self._message = message
        self._slots = slots
        self._befallen = befallen  # why it was cancelled, if that is a failure of the undo
        self.in_threads = False
        self._ctx = copy(ctx)
        self._ctx.bind(None, None)

    async def run(self, random: Random) -> dict[str, Any]:
        """Undo; returns the facts to record. Cancelled, the undo under way will be done again.

        Raises:
            StaleFence: another worker owns the job.
        """
        tenant, job_id, _ = self._holder
        run, steps = await until_stored(lambda: self._store.steps(tenant, job_id))
        while (step := next_undo(steps)) is not None:
            if _cancelling():
                raise asyncio.CancelledError  # the undo before kept it to itself
            failed = await self._undo(step, run, random)
            if failed is not None:
                return failed
            steps = with_status(steps, step.name, "undone")
        return {"to": "compensated"}

    async def _undo(self, step: Recorded, run: int, random: Random) -> dict[str, Any] | None:
        record = await until_stored(lambda: self._store.step(self._holder, step.name, "undoing"))
        known = find_undo(step.undo)
        try:
            if known is None:
                raise UnknownUndo(f"this worker has no undo {step.undo!r}")  # noqa: TRY301 - it is tried again like any other
            await self._call(known, step, record, run)
        except asyncio.CancelledError:
            fault = self._befallen() if _cancelling() else TaskCancelled("the undo cancelled itself")
            if fault is None:
                raise
            return self._failed(fault, step, record.tries, known, random)
        except (Exception, SystemExit, BaseExceptionGroup) as error:  # noqa: BLE001 - an undo may raise anything; it is recorded with the job
            return self._failed(error, step, record.tries, known, random)
        await until_stored(lambda: self._store.step(self._holder, step.name, "undone"))
        return None

    async def _call(self, known: Undo, step: Recorded, record: StepRecord, run: int) -> None:
        ctx = copy(self._ctx)
        ctx.cancelled, ctx.run = False, run
        ctx.undoing, ctx.undo_attempt = step.name, record.tries
        given = [msgspec.json.decode(text) for text in (record.result or b"null", record.given) if text is not None]
        try:
            async with asyncio.timeout(known.timeout) as limit:
                if inspect.iscoroutinefunction(known.function):
                    await Severable(known.function(ctx, *given))
                else:
                    self.in_threads = True
                    await self._slots.run(known.function, ctx, *given)
        except TimeoutError as error:
            raise (TaskTimeout(f"took longer than {known.timeout:g} s") if limit.expired() else error) from None
        finally:
            ctx.cancelled = True

    def _failed(
        self, error: BaseException, step: Recorded, tries: int, known: Undo | None, random: Random
    ) -> dict[str, Any]:
        error, most = telling(error), known.max_attempts if known else UNKNOWN_TRIES
        log.warning("compensation.failed", step=step.name, undo=step.undo, tries=tries, of=most, exc_info=error)
        dead = isinstance(error, GiveUp) or tries >= most
        text = f"the step {step.name} could not be undone: {type(error).__name__}: {shown(error)}"
        said = describe(CompensationFailed(text), self._message.attempt, retryable=not isinstance(error, GiveUp))
        if dead:
            return {"to": "failed", "error": said}
        asked = error.after if isinstance(error, Retry | Snooze) else None
        return {"to": "retrying", "error": said, "delay_ms": int(within(asked, backoff(tries, random)) * 1000)}


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
