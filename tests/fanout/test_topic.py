from __future__ import annotations

from unittest.mock import Mock

from hypothesis import given
from hypothesis import strategies as st

from gateway.events import Position, Publication
from gateway.fanout.connection import Connection, Subscription
from gateway.fanout.pump import Pass
from gateway.fanout.topic import HELD, RING_BYTES, RING_COUNT, Topic
from gateway.fanout.wire import Wire


def pub(offset: int, *, epoch: str = "g.0", size: int = 10) -> Publication:
    return Publication(epoch, offset, offset * 2, "a.b", "", b"", b"x" * size)


def topic(at: int = 0) -> Topic:
    made = Topic("default", "a:b", b"live")
    made.begin(Position("g.0", at))
    assert made.release()
    return made


def offsets(found: Topic) -> list[int]:
    return [entry.publication.offset for entry in found.entries]


@given(st.lists(st.integers(1, 30), max_size=60))
def test_whatever_arrives_the_ring_ascends_without_holes(arrivals: list[int]) -> None:
    made = topic()
    made.receive(pub(offset) for offset in arrivals)
    assert offsets(made) == list(range(1, made.head + 1))
    expected = 0
    for offset in arrivals:
        if offset > expected + 1:
            assert made.holding
            break
        expected = max(expected, offset)
    assert made.head == expected


def test_a_hole_is_filled_from_the_history_and_what_was_held_follows() -> None:
    made = topic()
    made.receive([pub(1), pub(4), pub(5)])
    assert (made.holding, offsets(made)) == (True, [1])
    made.repair([pub(2), pub(3), pub(4)], 4)
    assert made.release()
    assert offsets(made) == [1, 2, 3, 4, 5]


def test_the_history_may_skip_offsets() -> None:
    made = topic()
    made.receive([pub(1), pub(6)])
    made.repair([pub(3)], 5)
    assert made.release()
    assert offsets(made) == [1, 3, 6]
    assert [entry.publication.offset for entry in made.after(1) or ()] == [3, 6]


def test_another_epoch_holds() -> None:
    made = topic(5)
    made.receive([pub(1, epoch="g.1")])
    assert made.holding
    made.begin(Position("g.1", 0))
    assert made.release()
    assert made.position == Position("g.1", 1)


def test_too_much_held_is_dropped_and_read_again() -> None:
    made = topic()
    made.receive([pub(5)])
    made.receive(pub(offset) for offset in range(6, HELD + 10))
    made.repair([pub(offset) for offset in range(1, 5)], 4)
    assert not made.release()
    assert made.holding


def test_the_ring_keeps_what_is_not_delivered_and_trims_the_rest() -> None:
    made = topic()
    made.receive(pub(offset) for offset in range(1, 4 * RING_COUNT))
    made.trim()
    assert len(made.entries) == 4 * RING_COUNT - 1
    while (batch := made.next_batch()) is not None:
        made.delivered = batch.entries[-1].publication.offset
    made.trim()
    assert len(made.entries) == RING_COUNT
    assert made.floor == made.head - RING_COUNT
    assert made.after(made.floor - 1) is None
    assert len(made.after(made.floor) or ()) == RING_COUNT
    made.known_from = 0
    assert made.after_sequence(made.floor * 2 - 1) is None
    assert len(made.after_sequence(made.floor * 2) or ()) == RING_COUNT


def test_the_ring_is_bounded_by_bytes() -> None:
    made = topic()
    made.receive(pub(offset, size=RING_BYTES // 4) for offset in range(1, 20))
    made.delivered = made.head
    made.trim()
    assert made.ring_bytes <= RING_BYTES
    assert offsets(made) == [16, 17, 18, 19]


def test_sequences_are_unknown_until_somebody_says_from_where() -> None:
    made = topic()
    made.receive([pub(1), pub(2)])
    assert made.after_sequence(0) is None
    made.known_from = 2
    assert made.after_sequence(1) is None
    assert [entry.publication.sequence for entry in made.after_sequence(2) or ()] == [4]


def test_a_topic_that_begins_again_forgets_the_sequences_of_its_former_life() -> None:
    made = topic()
    made.receive(pub(offset) for offset in range(1, 4 * RING_COUNT))
    made.delivered = made.head
    made.trim()
    assert made.trimmed > 0
    made.begin(Position("h.0", 3))
    assert made.release()
    made.receive([pub(4, epoch="h.0")])
    made.known_from = 6
    assert [entry.publication.offset for entry in made.after_sequence(6) or ()] == [4]


class Reader(Connection):
    wire = Wire.FRAME

    def __init__(self) -> None:
        self.sink = Mock()


def test_a_pass_ends_with_the_life_it_belongs_to() -> None:
    made = topic()
    subscription = Subscription(Reader(), made, 0)
    subscription.go_live()
    made.receive([pub(1)])
    batch = made.next_batch()
    assert batch is not None
    whole, cut = Pass(made, batch), Pass(made, batch)
    assert whole.step() == 1
    subscription.offset = 0
    made.begin(Position("h.0", 0))
    assert cut.step() == 0
    assert not cut.groups
    assert subscription.write.call_count == 1  # type: ignore[attr-defined] # a mock's


def test_a_ring_can_be_cut_to_a_share_of_itself_and_keeps_what_is_not_delivered() -> None:
    made = topic()
    made.receive(pub(offset) for offset in range(1, 201))
    made.delivered = 190
    made.shrink(0.05)
    assert offsets(made) == list(range(191, 201))
    assert (made.floor, made.trimmed, made.ring_bytes) == (190, 380, 100)
    made.shrink(0.1)
    assert offsets(made) == list(range(191, 201))
    assert made.after(189) is None
