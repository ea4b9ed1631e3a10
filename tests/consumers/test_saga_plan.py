"""The pure parts of sagas and families: what to undo next, when there is nothing left to wait for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consumers.children import in_order, settled, suspension
from consumers.outcome import Suspended
from consumers.saga import next_undo, with_status
from gateway.jobs.sagas import Outcome, Recorded
from gateway.jobs.steps import STEP_TRANSITIONS, TO_UNDO

FORWARD = ("started", "done", "failed")


@st.composite
def sagas(draw: st.DrawFn, statuses: tuple[str, ...] = FORWARD) -> list[Recorded]:
    """Steps as a job can leave them behind."""
    count = draw(st.integers(0, 12))
    return [
        Recorded(f"s{number}", draw(st.sampled_from(statuses)), draw(st.sampled_from(("", "undo"))))
        for number in range(count)
    ]


@given(sagas(), st.lists(st.sampled_from(("undone", "undo-failed", "crash")), max_size=40))
def test_whatever_happens_on_the_way_all_is_undone_once_in_reverse_order(
    steps: list[Recorded], fates: list[str]
) -> None:
    owed = [step.name for step in steps if step.undo and step.status in TO_UNDO]
    undone: list[str] = []
    before = steps
    while (step := next_undo(steps)) is not None:
        assert step.status == "undoing" or "undoing" in STEP_TRANSITIONS[step.status]
        steps = with_status(steps, step.name, "undoing")
        fate = fates.pop() if fates else "undone"
        if fate != "crash":  # else another worker finds it as it is
            assert fate in STEP_TRANSITIONS["undoing"]
            steps = with_status(steps, step.name, fate)
        if fate == "undone":
            undone.append(step.name)
    assert undone == owed[::-1]
    left_alone = [step for step in before if step.name not in owed]
    assert [step for step in steps if step.name not in owed] == left_alone


@given(sagas(tuple(STEP_TRANSITIONS)))
def test_the_next_to_undo_is_the_last_that_is_owed(steps: list[Recorded]) -> None:
    found = next_undo(steps)
    later = steps if found is None else steps[steps.index(found) + 1 :]
    assert not any(step.undo and step.status in TO_UNDO for step in later)


def test_every_step_that_is_owed_can_be_undone() -> None:
    for status in TO_UNDO - {"undoing"}:
        assert "undoing" in STEP_TRANSITIONS[status]
    assert STEP_TRANSITIONS["undone"] == frozenset()
    for status, following in STEP_TRANSITIONS.items():
        assert following <= set(STEP_TRANSITIONS)
        assert status not in following


OUTCOMES = st.lists(st.sampled_from(("", "succeeded", "failed", "cancelled", "expired")), min_size=1, max_size=8)


@given(OUTCOMES, st.booleans())
def test_a_gather_that_is_settled_has_something_to_say(statuses: list[str], fail_fast: bool) -> None:  # noqa: FBT001 - hypothesis fills it in
    outcomes = [Outcome(f"job_{number}", status) for number, status in enumerate(statuses)]
    if settled(outcomes, fail_fast=fail_fast):
        said = in_order(outcomes)
        assert said
        assert all(outcome.status for outcome in said)
        assert "" in statuses or said == outcomes
    else:
        assert "" in statuses
        assert not fail_fast or set(statuses) <= {"", "succeeded"}


def test_a_suspension_is_found_alone_and_in_groups_but_not_beside_an_error() -> None:
    suspended = Suspended({"to": "waiting"})
    assert suspension(suspended) == {"to": "waiting"}
    assert suspension(BaseExceptionGroup("g", [BaseExceptionGroup("h", [suspended]), suspended])) == {"to": "waiting"}
    assert suspension(BaseExceptionGroup("g", [suspended, OSError()])) is None
    assert suspension(OSError()) is None
