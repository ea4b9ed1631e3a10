"""The subscribers of these tests notice what they are there to notice."""

from __future__ import annotations

import pytest

from tests.faults.readers import Socket, Stream
from tests.faults.subscribers import Crowd

TELL = -1


@pytest.mark.parametrize(
    ("story", "right"),
    [
        ([0, 1, 2], True),
        ([0, 2], False),
        ([0, 1, 1], False),
        ([0, 1, 0], False),
        ([0, 1, TELL, 5, 6], True),
        ([0, 1, TELL, 1, 2], True),
        ([0, 1, TELL, 0], False),
        ([0, 1, TELL, 5, 7], False),
        ([0, 1, TELL, TELL, 5], True),
    ],
)
def test_gaps_and_repeats_are_wrong_unless_they_were_told(story: list[int], right: bool) -> None:  # noqa: FBT001 - parametrized
    reader = Stream(Crowd([], ["a"]))
    for number in story:
        if number == TELL:
            reader.tell("reset")
        else:
            reader.see(number)
    assert (not reader.wrong) is right


@pytest.mark.parametrize(("seen", "told"), [([0, 1], 0), ([1, 2], 0), ([0, 1, 2], 1)], ids=["short", "late", "told"])
def test_an_audience_that_missed_something_or_was_told_is_found_out(seen: list[int], told: int) -> None:
    crowd = Crowd([], ["a"])
    for _ in range(2):
        crowd.members.append(reader := Socket(crowd))
        for number in range(3):
            reader.see(number)
    assert crowd.nobody_missed_anything(0, 2) == 6
    with pytest.raises(AssertionError):
        crowd.everybody_knows(0, 2)
    reader.seen = seen
    for _ in range(told):
        reader.tell("recovered: false")
    with pytest.raises(AssertionError):
        crowd.nobody_missed_anything(0, 2)


def test_a_jump_of_offsets_is_wrong() -> None:
    reader = Socket(Crowd([], ["a"]), ("e", 4))
    reader._take(5, 0)
    reader._take(7, 1)
    assert reader.wrong == ["offset 7 after 5"]
