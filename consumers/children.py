"""Children: jobs a task spawns and waits for without holding a worker.

The task that has to wait is unwound by `Suspended` and its job recorded as `waiting`. When the children have ended, the
task is called again from its top: `spawn` finds the children it spawned, steps give recorded results, and `gather`
returns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from consumers.outcome import GiveUp, Suspended, encode_result
from consumers.saga import held
from gateway.errors import InvalidFields
from gateway.events import new_id
from gateway.jobs.arguments import Arguments
from gateway.jobs.queue import Message
from gateway.jobs.records import Holder
from gateway.jobs.sagas import Outcome, SagaStore
from gateway.jobs.steps import MAX_CHILDREN, NAME, NAME_RULE
from gateway.jobs.submission import Submission, check

LONGEST_WAIT: Final = 30 * 86_400.0

LargeResult = Callable[[str], Awaitable[bytes | None]]


class ChildFailed(GiveUp):
    """A child did not succeed.

    Attributes:
        child: its id.
        status: how it ended.
        error: {type, message, attempt, retryable}, if there is one.
    """

    def __init__(self, child: str, status: str, error: Any) -> None:  # noqa: ANN401 - JSON
        reason = f": {error.get('type')}: {error.get('message')}" if isinstance(error, dict) else ""
        super().__init__(f"the child {child} {status if status == 'failed' else f'was {status}'}{reason}")
        self.child = child
        self.status = status
        self.error = error


class ChildrenLate(GiveUp):
    """The children have not ended in time."""


class Children:
    """The children of one attempt."""

    def __init__(
        self, store: SagaStore, holder: Holder, message: Message, arguments: Arguments, large: LargeResult
    ) -> None:
        self._store = store
        self._holder = holder
        self._message = message
        self._arguments = arguments
        self._large = large
        self._numbers: dict[str, int] = {}
        self._spawned = 0
        self._gathered = 0

    async def spawn(self, type_: str, job_input: object, name: str | None, options: dict[str, Any]) -> str:
        """Submit a child, once per parent, run and name; returns its id. See `Durable.spawn`."""
        self._spawned += 1
        name = name or f"#{self._spawned}"
        if not NAME.match(name):
            raise GiveUp(f"the name of the child {name!r} {NAME_RULE}")
        wanted = self._submission(type_, job_input, options)
        message = self._message
        arguments = self._arguments.child(message.tenant, new_id("job_"), wanted, message.traceparent, message.id)
        child, number = await held(lambda: self._store.spawn(self._holder, name, arguments))
        self._numbers[child] = number
        return child

    def _submission(self, type_: str, job_input: object, options: dict[str, Any]) -> Submission:
        given = {name: value for name, value in options.items() if value is not None}
        inherited = {"owner": self._message.owner, "priority": self._message.priority}
        body = {"type": type_, "input": msgspec.Raw(encode_result(job_input)), **inherited, **given}
        try:
            wanted = msgspec.json.decode(msgspec.json.encode(body), type=Submission)
            check(wanted)
        except (msgspec.ValidationError, InvalidFields, TypeError) as error:
            raise GiveUp(f"the child {type_!r} is not valid: {error}") from error
        return wanted

    async def gather(
        self, children: Sequence[str], *, fail_fast: bool, return_exceptions: bool, limit: float
    ) -> list[Any]:
        """Return the children's results once all have ended; see `Durable.gather`."""
        self._gathered += 1
        gather = self._gathered
        numbers = self._known(children)
        if fail_fast and return_exceptions:
            raise GiveUp("gather: fail_fast and return_exceptions exclude each other")
        if not 0 < limit <= LONGEST_WAIT:
            raise GiveUp(f"gather: timeout must be above 0 and at most {LONGEST_WAIT:g} seconds")
        late, outcomes = await held(lambda: self._store.children(self._holder, numbers, gather))
        if not settled(outcomes, fail_fast=fail_fast):
            if late:
                left = sum(not outcome.status for outcome in outcomes)
                raise ChildrenLate(f"{left} of {len(outcomes)} children have not ended within {limit:g} s")
            wait = {"children": numbers, "gather": gather, "fail_fast": fail_fast, "wait_ms": int(limit * 1000)}
            raise Suspended({"to": "waiting", **wait})
        return [await self._value(outcome, return_exceptions=return_exceptions) for outcome in in_order(outcomes)]

    def _known(self, children: Sequence[str]) -> list[int]:
        if not 1 <= len(children) <= MAX_CHILDREN:
            raise GiveUp(f"gather: give 1 to {MAX_CHILDREN} children")
        strangers = [child for child in children if child not in self._numbers]
        if strangers:
            raise GiveUp(f"gather: {strangers[0]!r} has not been spawned by this task")
        return [self._numbers[child] for child in children]

    async def _value(self, outcome: Outcome, *, return_exceptions: bool) -> Any:  # noqa: ANN401 - any JSON
        if outcome.status == "succeeded":
            result = await self._large(outcome.id) if outcome.apart else outcome.result
            if result is None and outcome.apart:
                raise GiveUp(f"the result of the child {outcome.id} is no longer kept")
            return msgspec.json.decode(result or b"null")
        error = msgspec.json.decode(outcome.error) if outcome.error else None
        failed = ChildFailed(outcome.id, outcome.status, error)
        if return_exceptions:
            return failed
        raise failed


def settled(outcomes: Sequence[Outcome], *, fail_fast: bool) -> bool:
    """Say whether there is nothing left to wait for. Pure."""
    if fail_fast and any(outcome.status not in {"", "succeeded"} for outcome in outcomes):
        return True
    return all(outcome.status for outcome in outcomes)


def in_order(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes as asked for; but when some are open, only the failures that made waiting pointless. Pure."""
    if all(outcome.status for outcome in outcomes):
        return list(outcomes)
    return [outcome for outcome in outcomes if outcome.status not in {"", "succeeded"}]


def suspension(error: BaseException) -> dict[str, Any] | None:
    """Return what to record if an error says that the job waits: alone, or as all that a task group raised."""
    if isinstance(error, Suspended):
        return error.facts
    if isinstance(error, BaseExceptionGroup):
        found, rest = error.split(Suspended)
        if found is not None and rest is None:
            return suspension(found.exceptions[0])
    return None
