from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.events import Position, Publication
from gateway.fanout import resume
from gateway.fanout.wire import Entry


def entry(sequence: int, key: str = "", size: int = 10) -> Entry:
    return Entry(Publication("g.0", sequence, sequence, "job.progress" if key else "a.b", key, b"", b"x" * size))


@given(st.lists(st.sampled_from(["", "", "j1", "j2"]), max_size=30))
def test_conflation_keeps_the_newest_of_a_key_and_counts_the_rest(keys: list[str]) -> None:
    entries = [entry(index, key) for index, key in enumerate(keys)]
    kept = resume.conflate(entries)
    sequences = [part.entry.publication.sequence for part in kept]
    assert sequences == sorted(sequences)
    assert [part.entry for part in kept if not part.entry.publication.key] == [
        one for one in entries if not one.publication.key
    ]
    assert len(kept) + sum(part.skipped for part in kept) == len(entries)
    for key in {key for key in keys if key}:
        newest = [part for part in kept if part.entry.publication.key == key]
        assert [part.entry.publication.sequence for part in newest] == [
            max(index for index, other in enumerate(keys) if other == key)
        ]
        assert newest[0].skipped == keys.count(key) - 1


@given(st.lists(st.sets(st.integers(1, 60)), max_size=5), st.integers(0, 60))
def test_a_merge_strictly_ascends_and_has_every_event_once(runs: list[set[int]], after: int) -> None:
    merged = resume.merge([[entry(n) for n in sorted(run)] for run in runs], after)
    expected = sorted({n for run in runs for n in run if n > after})
    assert [one.publication.sequence for one in merged] == expected


HEAD = Position("e", 900)


def test_a_reply_without_recovery_is_the_head() -> None:
    assert resume.answer(None, HEAD, None, all_there=True) == resume.Reply(recovered=False, entries=(), position=HEAD)
    asked = Position("e", 5)
    assert resume.answer(asked, HEAD, None, all_there=True) == resume.Reply(recovered=False, entries=(), position=HEAD)


def test_nothing_missed_is_recovered_at_the_head() -> None:
    assert resume.answer(HEAD, HEAD, [], all_there=True) == resume.Reply(recovered=True, entries=[], position=HEAD)


def test_a_long_recovery_is_split_after_three_hundred() -> None:
    missed = [entry(n) for n in range(101, 901)]
    reply = resume.answer(Position("e", 100), HEAD, missed, all_there=True)
    assert reply.recovered
    assert len(reply.entries) == resume.MAX_IN_REPLY
    assert reply.position == Position("e", 400)


def test_a_large_recovery_is_split_by_bytes() -> None:
    missed = [entry(n, size=100_000) for n in range(897, 901)]
    reply = resume.answer(Position("e", 896), HEAD, missed, all_there=True)
    assert (len(reply.entries), reply.position) == (1, Position("e", 897))


def test_a_partial_reading_never_claims_the_head() -> None:
    missed = [entry(n) for n in range(1, 101)]
    reply = resume.answer(Position("e", 0), HEAD, missed, all_there=False)
    assert reply.position == Position("e", 100)
