"""The state machine's table."""

from __future__ import annotations

from collections import deque

import pytest

from gateway.jobs.model import EVENTS, HELD, STATES, TERMINAL, TO_PUBLISH, TRANSITIONS, lua_tables, may


def test_every_state_is_reachable() -> None:
    seen, todo = {"accepted", "scheduled"}, deque(["accepted", "scheduled"])
    while todo:
        for following in TRANSITIONS[todo.popleft()] - seen:
            seen.add(following)
            todo.append(following)
    assert seen == STATES


def test_every_open_state_can_end() -> None:
    for state in STATES - TERMINAL:
        seen, todo = {state}, deque([state])
        while todo:
            for following in TRANSITIONS[todo.popleft()] - seen:
                seen.add(following)
                todo.append(following)
        assert seen & TERMINAL, state


def test_transitions_lead_to_known_states_and_never_to_themselves() -> None:
    for state, following in TRANSITIONS.items():
        assert following <= STATES
        assert state not in following


def test_an_ended_job_can_only_run_again() -> None:
    for state in TERMINAL:
        assert TRANSITIONS[state] == {"accepted"}


def test_every_state_but_accepted_has_an_event() -> None:
    assert set(EVENTS) == STATES - {"accepted"}
    assert len(set(EVENTS.values())) == len(EVENTS)


@pytest.mark.parametrize(
    ("current", "following", "allowed"),
    [
        ("accepted", "queued", True),
        ("accepted", "running", False),
        ("queued", "running", True),
        ("running", "succeeded", True),
        ("running", "expired", False),
        ("retrying", "queued", True),
        ("succeeded", "failed", False),
        ("cancelled", "running", False),
        ("waiting", "queued", True),
        ("waiting", "compensating", True),
        ("retrying", "compensating", True),
        ("compensating", "running", False),
        ("compensating", "retrying", True),
    ],
)
def test_may(current: str, following: str, allowed: bool) -> None:  # noqa: FBT001 - a table's column
    assert may(current, following) is allowed


def test_lua_tables_name_every_state() -> None:
    text = lua_tables()
    for state in STATES:
        assert f"{state}={{" in text
    for state in HELD | TO_PUBLISH | TERMINAL:
        assert f"['{state}']=true" in text
