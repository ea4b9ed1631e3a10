"""Errors on the pipe between a task's process and its worker: by name and message, nothing is unpickled."""

from __future__ import annotations

from typing import Final, Literal, TypeVar

from consumers.asking import Said
from consumers.context import Cancelled
from consumers.outcome import (
    BreakerOpen,
    GiveUp,
    LockBusy,
    Policy,
    RemoteError,
    Retry,
    Snooze,
    Uncertain,
    shown,
    snooze_of,
    telling,
)

T = TypeVar("T", bound=Exception)


class Failure(Said, frozen=True):
    """An error: its type's name and message.

    Attributes:
        kind: what it means to the worker.
        type: the name.
        message: for people.
        after: seconds, of a retry or a snooze.
        retryable: what the task's policy says of an error.
    """

    kind: Literal["give-up", "retry", "snooze", "cancelled", "error"]
    type: str
    message: str
    after: int | float | None = None
    retryable: bool = True


# Ours, which a task may want to catch.
_GIVING_UP: Final[dict[str, type[GiveUp]]] = {one.__name__: one for one in (Uncertain, GiveUp)}
_SNOOZES: Final[dict[str, type[Snooze]]] = {one.__name__: one for one in (BreakerOpen, LockBusy, Snooze)}


def failure_of(error: BaseException, policy: Policy) -> Failure:
    """Describe an error; subclasses of `GiveUp`, `Retry` and `Snooze` mean what those mean."""
    snooze = snooze_of(error)
    if snooze is not None:
        return Failure("snooze", type(snooze).__name__, shown(snooze), snooze.after)
    error = telling(error)
    kind: Literal["give-up", "retry", "cancelled", "error"] = "error"
    after = None
    if isinstance(error, GiveUp):
        kind = "give-up"
    elif isinstance(error, Retry):
        kind = "retry"
        after = error.after
    elif isinstance(error, Cancelled):
        kind = "cancelled"
    return Failure(kind, type(error).__name__, shown(error), after, policy.retryable(error))


def error_of(failure: Failure) -> Exception:
    """Make the error anew, with the name its type had there."""
    match failure.kind:
        case "snooze":
            kind = _SNOOZES.get(failure.type) or _named(failure.type, Snooze)
            return kind(failure.message, after=failure.after or 0.0)
        case "retry":
            return _named(failure.type, Retry)(failure.message, after=failure.after)
        case "give-up":
            return (_GIVING_UP.get(failure.type) or _named(failure.type, GiveUp))(failure.message)
        case "cancelled":
            return Cancelled(failure.message)
    error = _named(failure.type, RemoteError)(failure.message)
    error.retryable = failure.retryable
    return error


def _named(name: str, base: type[T]) -> type[T]:
    return type(name, (base,), {})
