"""Steps of a saga: each is recorded before and after, skipped when the job resumes, undone when it does not.

Sources: H. Garcia-Molina, K. Salem, "Sagas", SIGMOD 1987; the recovery blocks of durable execution (Temporal, Restate).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from consumers.context import Cancelled
from consumers.outcome import GiveUp, Uncertain, encode_result
from consumers.patience import until_stored
from consumers.undos import find_undo
from gateway.errors import Conflict, StaleFence
from gateway.jobs.records import Holder
from gateway.jobs.sagas import JobCancelled, Recorded, SagaStore, StepRecord
from gateway.jobs.steps import MAX_STEP_RESULT, NAME, NAME_RULE, TO_UNDO

T = TypeVar("T")


def next_undo(steps: Sequence[Recorded]) -> Recorded | None:
    """Return the step to undo next, given all in the order they began: the last one that has to be undone. Pure."""
    return next((step for step in reversed(steps) if step.undo and step.status in TO_UNDO), None)


def with_status(steps: Sequence[Recorded], name: str, status: str) -> list[Recorded]:
    """Return the steps with one of them in another status. Pure."""
    return [step._replace(status=status) if step.name == name else step for step in steps]


class Begun(NamedTuple):
    """The answer to beginning a step: its value when it `is_done` already."""

    is_done: bool
    value: Any = None


class Steps:
    """The steps of one attempt."""

    def __init__(self, store: SagaStore, holder: Holder) -> None:
        self._store = store
        self._holder = holder
        self._seen: set[str] = set()

    async def run(self, name: str, do: Callable[[], Any], undo: str | None, undo_input: object) -> Any:  # noqa: ANN401 - any JSON
        """Run a step from the loop; see `Durable.step`."""
        begun = await self.begin(name, undo, undo_input)
        if begun.is_done:
            return begun.value
        try:
            value = do()
            if inspect.isawaitable(value):
                value = await value
        except Uncertain:
            raise  # it stays as what it is: begun, and nobody knows
        except Exception:
            await self.fail(name)
            raise
        return await self.end(name, value)

    async def begin(self, name: str, undo: str | None, undo_input: object) -> Begun:
        """Record that a step starts, unless it is done already."""
        self._check(name, undo)
        given = None if undo_input is None else _json(name, undo_input)
        record = await self._record(name, "started", undo=undo, given=given)
        if record.status == "done":
            return Begun(is_done=True, value=msgspec.json.decode(record.result or b"null"))
        return Begun(is_done=False)

    async def fail(self, name: str) -> None:
        """Record that the step has not happened: its function raised."""
        await self._record(name, "failed")

    async def end(self, name: str, value: object) -> Any:  # noqa: ANN401 - any JSON
        """Record the result; returns it as a resumed job will see it. Without it, the step counts as unknown."""
        result = _json(name, value)
        await self._record(name, "done", result=result)
        return msgspec.json.decode(result)

    def _check(self, name: str, undo: str | None) -> None:
        if not NAME.match(name):
            raise GiveUp(f"the name of the step {name!r} {NAME_RULE}")
        if name in self._seen:
            raise GiveUp(f"the step {name!r} has been there in this attempt: every step needs a name of its own")
        if undo is not None and find_undo(undo) is None:
            raise GiveUp(f"the step {name!r} names the undo {undo!r}, which is not registered")
        self._seen.add(name)

    async def _record(self, name: str, to: str, **facts: str | None) -> StepRecord:
        return await held(lambda: self._store.step(self._holder, name, to, **facts))


async def held(step: Callable[[], Awaitable[T]]) -> T:
    """Do something that needs the hold on the job, waiting for Redis; in the words a task knows.

    Raises:
        Cancelled: the job is cancelled, or another worker's.
        GiveUp: a rule forbids it.
    """
    try:
        return await until_stored(step)
    except (StaleFence, JobCancelled) as error:
        raise Cancelled from error
    except Conflict as error:
        raise GiveUp(error.detail) from error


def _json(name: str, value: object) -> str:
    text = encode_result(value)
    if len(text) > MAX_STEP_RESULT:
        raise GiveUp(f"the step {name!r} has {len(text)} bytes to keep, more than {MAX_STEP_RESULT}")
    return text.decode()
