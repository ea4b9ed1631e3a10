"""What becomes of an attempt that raised."""

from __future__ import annotations

import json
import os
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import BreakerOpen, GiveUp, LockBusy, Retry, Snooze, Uncertain
from consumers.failures import error_of, failure_of
from consumers.outcome import (
    BACKOFF_CAP,
    MAX_MESSAGE,
    USUAL,
    Policy,
    ProcessDied,
    TaskTimeout,
    after_error,
    backoff,
    describe,
    put_back,
)

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


class Later(Retry):
    """A task's own."""


class TooLate(Snooze):
    """A task's own."""


NARROW = Policy(retry_on=(OSError, LookupError), give_up_on=(FileNotFoundError,))
ERRORS: list[tuple[Policy, BaseException, bool]] = [
    (USUAL, ValueError("x"), True),
    (USUAL, GiveUp("x"), False),
    (USUAL, Uncertain("x"), False),
    (Policy(give_up_on=(ValueError,)), ValueError("x"), False),
    (Policy(give_up_on=(ValueError,)), UnicodeError("x"), False),  # a subclass
    (Policy(give_up_on=(ValueError,)), OSError("x"), True),
    (NARROW, ConnectionError("x"), True),
    (NARROW, KeyError("x"), True),
    (NARROW, FileNotFoundError("x"), False),  # give_up_on wins
    (NARROW, ValueError("x"), False),
    (NARROW, SystemExit("x"), False),
    (NARROW, Retry("x"), True),
    (NARROW, Later("x"), True),
    (NARROW, GiveUp("x"), False),
    (NARROW, TaskTimeout("x"), True),
    (NARROW, ProcessDied("x"), True),
    (Policy(retry_on=()), OSError("x"), False),
    (Policy(retry_on=()), TaskTimeout("x"), True),
    (Policy(give_up_on=(TaskTimeout,)), TaskTimeout("x"), False),
    (Policy(give_up_on=(Exception,)), TaskTimeout("x"), False),
    (Policy(give_up_on=(Exception,)), Later("x"), True),
    (NARROW, ExceptionGroup("x", [OSError(), KeyError()]), True),
    (NARROW, ExceptionGroup("x", [OSError(), ValueError()]), False),
    (USUAL, ExceptionGroup("x", [ExceptionGroup("y", [GiveUp()]), OSError()]), False),
]


@pytest.mark.parametrize(("policy", "error", "retryable"), ERRORS)
def test_which_errors_are_worth_another_attempt(policy: Policy, error: BaseException, *, retryable: bool) -> None:
    assert policy.retryable(error) == retryable
    outcome = after_error(error, attempt=1, max_attempts=2, random=Random(1), policy=policy)
    assert outcome.to == ("retrying" if retryable else "failed")
    assert json.loads(outcome.error)["retryable"] == retryable


@pytest.mark.parametrize(("policy", "error", "retryable"), ERRORS)
def test_a_process_judges_as_a_worker_does(policy: Policy, error: BaseException, *, retryable: bool) -> None:
    remote = error_of(failure_of(error, policy))
    assert type(remote).__name__ == type(error).__name__
    assert type(remote) is not type(error) or isinstance(error, GiveUp)
    # The worker's policy may know the names, never the types: it must not judge again.
    for elsewhere in (policy, USUAL, Policy(retry_on=())):
        outcome = after_error(remote, attempt=1, max_attempts=2, random=Random(1), policy=elsewhere)
        assert outcome.to == ("retrying" if retryable else "failed")


@pytest.mark.parametrize("kind", [Snooze, BreakerOpen, LockBusy, TooLate])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_snooze_burns_no_attempt_whatever_the_policy(kind: type[Snooze], *, grouped: bool) -> None:
    error: Exception = kind("m", after=7.5)
    if grouped:
        error = ExceptionGroup("g", [Snooze(after=1), error])
    for raised in (error, error_of(failure_of(error, NARROW))):
        for policy in (USUAL, NARROW, Policy(give_up_on=(Exception,))):
            outcome = after_error(raised, attempt=9, max_attempts=1, random=Random(1), policy=policy)
            assert (outcome.to, outcome.delay) == ("snoozed", 7.5)
            assert json.loads(outcome.error)["type"] == kind.__name__
    mixed = ExceptionGroup("g", [error, ValueError()])
    assert after_error(mixed, attempt=1, max_attempts=2, random=Random(1)).to == "retrying"


@given(st.floats())
def test_however_long_a_snooze_it_is_a_time(after: float) -> None:
    for error in (Snooze(after=after), error_of(failure_of(Snooze(after=after), USUAL))):
        assert 0 <= after_error(error, attempt=1, max_attempts=1, random=Random(1)).delay < 10 * 365 * 86_400


def test_ours_come_through_the_pipe_as_what_they_are() -> None:
    for error in (BreakerOpen("m", after=1), LockBusy("m", after=1), Uncertain("m"), GiveUp("m")):
        assert type(error_of(failure_of(error, USUAL))) is type(error)


@given(ATTEMPTS, SEEDS, st.floats(0, 100), st.floats(0, 1000))
def test_a_task_has_its_own_backoff(attempt: int, random: Random, base: float, more: float) -> None:
    policy = Policy(backoff=(base, base + more))
    assert 0 <= policy.delay(attempt, random) <= min(base + more, base * 2.0 ** min(attempt - 1, 60))


@given(st.floats(0, 1e6), st.integers(0, 1000), SEEDS)
def test_what_waits_for_the_same_comes_back_later_and_spread(wait: float, snoozes: int, random: Random) -> None:
    assert wait + 0.4 <= put_back(wait, snoozes, random) + 1e-6
    assert put_back(wait, snoozes, random) <= wait + min(60, 4 * 2.0 ** min(snoozes, 10))


@pytest.mark.parametrize(
    ("error", "kind", "to"),
    [
        (ExceptionGroup("g", [ExceptionGroup("h", [OSError("one")])]), "OSError", "retrying"),
        (ExceptionGroup("g", [GiveUp("one")]), "GiveUp", "failed"),
        (ExceptionGroup("g", [OSError(), ExceptionGroup("h", [Uncertain(), OSError()])]), "Uncertain", "failed"),
        (ExceptionGroup("g", [OSError(), ValueError()]), "ExceptionGroup", "retrying"),
    ],
)
def test_a_group_is_shown_as_the_error_that_tells_most(error: ExceptionGroup[Exception], kind: str, to: str) -> None:
    outcome = after_error(error, attempt=1, max_attempts=5, random=Random(1))
    assert (json.loads(outcome.error)["type"], outcome.to) == (kind, to)
    assert failure_of(error, USUAL).type == kind
