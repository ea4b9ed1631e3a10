"""What becomes of an attempt: succeeded, another try, or the dead letters. Pure."""

from __future__ import annotations

import math
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

BACKOFF_BASE: Final = 1.0
BACKOFF_CAP: Final = 600.0
MAX_DELAY: Final = 30 * 86_400.0  # whatever the task asks for
MAX_MESSAGE: Final = 1000  # characters of an error kept with the job


class GiveUp(Exception):
    """Raised by a task: trying again cannot help. The job fails with this message."""


class Retry(Exception):
    """Raised by a task: try again, after so many seconds if given (else the usual backoff)."""

    def __init__(self, message: str = "the task asked for another try", *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Suspended(BaseException):
    """Unwinds a task whose job is to wait for its children; carries what to record. Not for tasks to catch."""

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__("the job waits for its children")
        self.facts = facts


class Snooze(Exception):
    """Raised by a task: not now. The job waits `after` seconds and the same attempt starts anew; none is burnt.

    Only `MAX_SNOOZES` times an attempt: then it counts as an error of the attempt.
    """

    def __init__(self, message: str = "the task asked to be run later", *, after: float) -> None:
        super().__init__(message)
        self.after = after


class BreakerOpen(Snooze):
    """The dependency is taken for broken: nothing was sent to it."""


class LockBusy(Snooze):
    """Somebody else holds the lock."""


class LockLost(Exception):
    """The lease of a lock ended while it was held: somebody else may have it."""


class Uncertain(GiveUp):
    """An effect was begun by an attempt that did not live to tell its end: whether it happened is not known."""


class TaskTimeout(Exception):
    """The attempt took longer than its timeout."""


class TaskCancelled(Exception):
    """The task ended by a cancellation nobody of ours asked for."""


class ProcessDied(Exception):
    """The process ended without an answer, or with one that cannot be read: killed, out of memory, crashed."""


class RemoteError(Exception):
    """An error the task raised in its process, by the original type's name; judged there, where the type is known."""

    retryable = True


# How attempts end that the task had no say in.
_BEFALLEN: Final = (TaskTimeout, TaskCancelled, ProcessDied, LockLost)


class Policy(NamedTuple):
    """Which errors of a task are worth another attempt, and when it comes.

    Attributes:
        retry_on: if given, only these.
        give_up_on: these never.
        backoff: base and cap in seconds, instead of the usual ones.
    """

    retry_on: tuple[type[Exception], ...] | None = None
    give_up_on: tuple[type[Exception], ...] = ()
    backoff: tuple[float, float] | None = None

    def retryable(self, error: BaseException) -> bool:
        """Say whether another attempt may help.

        In this order: `Retry` and `Snooze` yes, `GiveUp` no, whatever the lists say; what `give_up_on` names, no;
        a timeout, a dead process, a lost lock, yes; with `retry_on`, what it names; anything else yes. Subclasses
        count as their bases. A group is retryable if all that is in it is.
        """
        if isinstance(error, BaseExceptionGroup):
            return all(self.retryable(one) for one in error.exceptions)
        if isinstance(error, RemoteError):
            return error.retryable
        if isinstance(error, Retry | Snooze | GiveUp):
            return not isinstance(error, GiveUp)
        if isinstance(error, self.give_up_on):
            return False
        return self.retry_on is None or isinstance(error, (*_BEFALLEN, *self.retry_on))

    def delay(self, attempt: int, random: Random) -> float:
        """Return the seconds to wait after attempt `attempt`."""
        return backoff(attempt, random, self.backoff)


USUAL: Final = Policy()


class Outcome(NamedTuple):
    """What to record.

    Attributes:
        to: `retrying`, `snoozed` or `failed`.
        error: JSON object {type, message, attempt, retryable}.
        delay: seconds until the next attempt, or the same again.
    """

    to: str
    error: str
    delay: float


def after_error(
    error: BaseException, *, attempt: int, max_attempts: int, random: Random, policy: Policy = USUAL
) -> Outcome:
    """Decide what follows an error of attempt `attempt` (1, 2, …)."""
    snoozed = snooze_of(error)
    if snoozed is not None:
        delay = within(snoozed.after, policy.delay(attempt, random))
        return Outcome("snoozed", describe(snoozed, attempt, retryable=True), delay)
    error = telling(error)
    retryable = policy.retryable(error)
    again = retryable and attempt < max_attempts
    usual = policy.delay(attempt, random)
    asked = error.after if isinstance(error, Retry) else None
    delay = within(asked, usual) if again else 0.0
    return Outcome("retrying" if again else "failed", describe(error, attempt, retryable=retryable), delay)


def telling(error: BaseException) -> BaseException:
    """Return what a group of errors comes down to: the one error in it, or that nobody knows; else the group itself."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    found = [telling(one) for one in error.exceptions]
    unknown = [one for one in found if isinstance(one, Uncertain)]
    return [*unknown, *found][0] if unknown or len(found) == 1 else error


def snooze_of(error: BaseException) -> Snooze | None:
    """Return the snooze an error is: of a group the longest, if there is nothing else in it."""
    if isinstance(error, Snooze):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [snooze_of(one) for one in error.exceptions]
        snoozes = [one for one in found if one is not None]
        return max(snoozes, key=lambda one: one.after) if len(snoozes) == len(found) else None
    return None


def within(asked: float | None, usual: float) -> float:
    """Return the delay that was asked for, or the usual one, within its bounds (seconds)."""
    wanted = usual if asked is None or math.isnan(asked) else asked
    return min(max(wanted, 0.0), MAX_DELAY)


def backoff(attempt: int, random: Random, limits: tuple[float, float] | None = None) -> float:
    """Return the seconds to wait after attempt `attempt`: exponential with full jitter.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    base, cap = limits or (BACKOFF_BASE, BACKOFF_CAP)
    return random.uniform(0.0, min(cap, base * 2 ** min(attempt - 1, 30)))


def put_back(wait: float, snoozes: int, random: Random) -> float:
    """Return when a job should come again that cannot go on for `wait` seconds, put back `snoozes` times before.

    Later than the wait, by 4 s and twice as much each time, up to a minute, with jitter: those that wait for the
    same must not all come at once.
    """
    return wait + min(60.0, 4.0 * 2.0 ** min(snoozes, 10)) * random.uniform(0.1, 1)


def describe(error: BaseException, attempt: int, *, retryable: bool) -> str:
    """Write an error as JSON: its type and message, never its traceback."""
    fields = {
        "type": type(error).__name__,
        "message": shown(error),
        "attempt": attempt,
        "retryable": retryable,
    }
    return msgspec.json.encode(fields).decode()


def shown(error: BaseException) -> str:
    """Return an error's message, whatever its `__str__` does."""
    try:
        return printable(str(error))
    except Exception as broken:  # noqa: BLE001 - the error is the task's code
        return f"(its message cannot be shown: {type(broken).__name__})"


def printable(text: str, limit: int = MAX_MESSAGE) -> str:
    """Cut a text, and replace what UTF-8 cannot say."""
    return text[:limit].encode("utf-8", "replace").decode()


def encode_result(value: object, what: str = "result") -> bytes:
    """Write a task's result, or something else it gives, as JSON.

    Raises:
        GiveUp: it is none.
    """
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise GiveUp(f"the {what} is not JSON: {error}") from error
