"""What becomes of an attempt that raised."""

from __future__ import annotations

import json
import os
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import GiveUp, Retry
from consumers.outcome import BACKOFF_CAP, MAX_MESSAGE, TaskTimeout, after_error, backoff, describe

ATTEMPTS = st.integers(1, 10_000)
SEEDS = st.integers(0, 2**32).map(Random)


class Hopeless(GiveUp):
    """A task's own."""


@pytest.mark.parametrize(
    ("error", "attempt", "to", "retryable"),
    [
        (ValueError("x"), 1, "retrying", True),
        (ValueError("x"), 2, "retrying", True),
        (ValueError("x"), 3, "failed", True),
        (ValueError("x"), 4, "failed", True),
        (TaskTimeout("x"), 1, "retrying", True),
        (Retry("x"), 1, "retrying", True),
        (Retry("x", after=5), 3, "failed", True),
        (GiveUp("x"), 1, "failed", False),
        (Hopeless("x"), 1, "failed", False),
    ],
)
def test_what_follows_an_error(error: Exception, attempt: int, to: str, retryable: bool) -> None:  # noqa: FBT001 - a column
    outcome = after_error(error, attempt=attempt, max_attempts=3, random=Random(1))
    expected = {"type": type(error).__name__, "message": "x", "attempt": attempt, "retryable": retryable}
    assert (outcome.to, json.loads(outcome.error)) == (to, expected)
    assert (outcome.delay == 0) == (to == "failed")


def test_a_retry_is_when_the_task_asked() -> None:
    outcome = after_error(Retry(after=1234.5), attempt=1, max_attempts=2, random=Random(1))
    assert outcome.delay == 1234.5
    assert after_error(Retry(after=0), attempt=1, max_attempts=2, random=Random(1)).delay == 0


@given(ATTEMPTS, SEEDS)
def test_the_backoff_stays_within_its_bounds(attempt: int, random: Random) -> None:
    assert 0 <= backoff(attempt, random) <= min(BACKOFF_CAP, 2 ** (attempt - 1))


def test_the_backoff_uses_the_whole_of_its_range() -> None:
    random = Random(1)
    waits = [backoff(4, random) for _ in range(500)]
    assert min(waits) < 0.5
    assert max(waits) > 7.5


@given(ATTEMPTS, st.integers(1, 100), SEEDS)
def test_there_is_never_an_attempt_too_many(attempt: int, max_attempts: int, random: Random) -> None:
    outcome = after_error(RuntimeError("x"), attempt=attempt, max_attempts=max_attempts, random=random)
    assert (outcome.to == "retrying") == (attempt < max_attempts)
    assert outcome.delay >= 0


@given(st.floats())
def test_whatever_a_task_asks_for_the_delay_is_a_time(after: float) -> None:
    delay = after_error(Retry(after=after), attempt=1, max_attempts=2, random=Random(1)).delay
    assert 0 <= delay < 10 * 365 * 86_400


@given(st.text(st.characters(codec=None), max_size=3000), ATTEMPTS)  # any character, half a surrogate pair too
def test_an_error_is_json_whatever_its_message(message: str, attempt: int) -> None:
    shown = json.loads(describe(ValueError(message), attempt, retryable=True).encode())
    assert len(shown["message"]) <= MAX_MESSAGE
    assert shown["attempt"] == attempt


def test_an_error_is_cut_and_shows_no_traceback() -> None:
    with pytest.raises(LookupError) as raised:
        os.environ["m" * 5000]
    text = describe(raised.value, 1, retryable=True)
    shown: dict[str, Any] = json.loads(text)
    assert set(shown) == {"type", "message", "attempt", "retryable"}
    assert shown["message"] == "'" + "m" * (MAX_MESSAGE - 1)
    assert "Traceback" not in text
    assert "test_outcome" not in text


def test_an_error_that_cannot_be_shown_is_recorded_all_the_same() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise TypeError("no text")

    shown = json.loads(describe(Broken(), 1, retryable=True))
    assert shown["type"] == "Broken"
