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


class TaskTimeout(Exception):
    """The attempt took longer than its timeout."""


class TaskCancelled(Exception):
    """The task ended by a cancellation nobody of ours asked for."""


class Outcome(NamedTuple):
    """What to record.

    Attributes:
        to: `retrying` or `failed`.
        error: JSON object {type, message, attempt, retryable}.
        delay: seconds until the next attempt, when retrying.
    """

    to: str
    error: str
    delay: float


def after_error(error: BaseException, *, attempt: int, max_attempts: int, random: Random) -> Outcome:
    """Decide what follows an error of attempt `attempt` (1, 2, …)."""
    retryable = not isinstance(error, GiveUp)
    again = retryable and attempt < max_attempts
    asked = error.after if isinstance(error, Retry) else None
    if asked is None or math.isnan(asked):
        asked = backoff(attempt, random)
    delay = min(max(asked, 0.0), MAX_DELAY) if again else 0.0
    return Outcome("retrying" if again else "failed", describe(error, attempt, retryable=retryable), delay)


def backoff(attempt: int, random: Random) -> float:
    """Return the seconds to wait after attempt `attempt`: exponential with full jitter.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return random.uniform(0, min(BACKOFF_CAP, BACKOFF_BASE * 2 ** min(attempt - 1, 30)))


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


def encode_result(value: object) -> bytes:
    """Write a task's result as JSON.

    Raises:
        GiveUp: it is none.
    """
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise GiveUp(f"the result is not JSON: {error}") from error
