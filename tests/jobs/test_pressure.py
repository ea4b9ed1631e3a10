"""When to come back."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.jobs.pressure import LONGEST, SHORTEST, SPREAD, UNKNOWN, Pressure, over, retry_after, room


@pytest.mark.parametrize(
    ("excess", "ended", "seconds"),
    [(100, 100, 10), (100, 1000, 1), (1, 10_000, SHORTEST), (50_000, 10, LONGEST / SPREAD), (5, 0, UNKNOWN)],
)
def test_the_answer_is_excess_by_rate(excess: float, ended: int, seconds: float) -> None:
    assert seconds <= retry_after(excess, ended, Random(1)) <= seconds * SPREAD


@given(st.floats(0, 1e9), st.integers(0, 10**9), st.randoms(use_true_random=False))
def test_it_is_always_bounded(excess: float, ended: int, random: Random) -> None:
    assert SHORTEST <= retry_after(excess, ended, random) <= LONGEST


def test_what_has_to_end_before_there_is_room() -> None:
    assert room(Pressure(50_000, 1)) == 2500
    assert room(Pressure(0, 0)) == 1
    assert over(Pressure(12, 1), 10) == 3
    assert over(Pressure(9, 1), 10) == 1
