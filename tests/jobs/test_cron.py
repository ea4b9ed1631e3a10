"""When schedules fire."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigurationError
from gateway.jobs.cron import Schedule
from gateway.jobs.model import JOB_ID


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("cron", "zone", "after", "following"),
    [
        ("*/5 * * * *", "UTC", "2026-03-01T10:03:20", "2026-03-01T10:05:00"),
        ("*/5 * * * *", "UTC", "2026-03-01T10:05:00", "2026-03-01T10:10:00"),
        ("0 9 * * MON-FRI", "UTC", "2026-03-06T09:00:00", "2026-03-09T09:00:00"),
        ("0 9 * * *", "Europe/Berlin", "2026-07-01T00:00:00", "2026-07-01T07:00:00"),
        ("0 9 * * *", "Europe/Berlin", "2026-01-01T00:00:00", "2026-01-01T08:00:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00", "2026-03-29T01:00:00"),  # does not exist: at 3:00
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00", "2026-10-26T01:30:00"),  # comes twice, fires once
        ("*/2 * * * * *", "UTC", "2026-03-01T10:00:01", "2026-03-01T10:00:02"),
        ("0 0 L * *", "UTC", "2028-02-03T00:00:00", "2028-02-29T00:00:00"),
    ],
)
def test_the_next_firing(cron: str, zone: str, after: str, following: str) -> None:
    assert Schedule(cron=cron, timezone=zone).following(ms(after)) == ms(following)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cron": "nonsense"},
        {"cron": "61 * * * *"},
        {"cron": ""},
        {"cron": "L/2 * * * *"},
        {"cron": "0 0 30 2 *"},
        {"cron": "* * * * *", "timezone": "Mars/Olympus"},
        {"cron": "* * * * *", "timezone": "../etc/passwd"},
        {"cron": "* * * * *", "tenant": "a b"},
        {"cron": "* * * * *", "overlap": "perhaps"},
    ],
)
def test_a_schedule_that_cannot_be_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        Schedule(**wrong).check()  # type: ignore[arg-type] # that is the point


@given(
    st.sampled_from(["*/7 * * * *", "30 2 * * *", "0 */6 * * *", "15,45 1-3 * * *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    st.integers(ms("2026-01-01T00:00:00"), ms("2028-01-01T00:00:00")),
)
def test_firings_go_forward_and_do_not_depend_on_who_asks(cron: str, zone: str, after: int) -> None:
    schedule = Schedule(cron=cron, timezone=zone)
    following = schedule.following(after)
    assert following > after
    assert schedule.following((after + following) // 2) == following or schedule.following(after) == following


def test_a_firing_is_one_job_whoever_makes_it() -> None:
    schedule = Schedule(cron="* * * * *")
    first = schedule.job_id("report", 1_000_000)
    assert JOB_ID.match(first)
    assert schedule.job_id("report", 1_000_000) == first
    others = {schedule.job_id("report", 2_000_000), schedule.job_id("other", 1_000_000)}
    assert first not in others
    assert first < max(others)
