"""Merging histories: nothing lost, nothing twice, never beyond what is known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.events import Publication
from gateway.store.merge import merge_by_sequence

EVENTS = st.lists(st.sets(st.sampled_from("abc"), min_size=1), max_size=40)


def histories(events: list[set[str]], limit: int) -> dict[str, list[Publication]]:
    """What each channel's history says, cut at the limit; the n-th event is on the n-th set of channels."""
    found: dict[str, list[Publication]] = {"a": [], "b": [], "c": []}
    for sequence, channels in enumerate(events, 1):
        for channel in channels:
            found[channel].append(Publication("e", len(found[channel]) + 1, sequence, "t", "", b"", b"{}"))
    return {channel: publications[:limit] for channel, publications in found.items()}


@given(EVENTS, st.integers(1, 50))
def test_merge(events: list[set[str]], limit: int) -> None:
    merged, more = merge_by_sequence(histories(events, limit), limit)
    sequences = [publication.sequence for _, publication in merged]
    assert sequences == list(range(1, len(sequences) + 1))
    if not more:
        assert len(sequences) == len(events)
    for channel, publication in merged:
        assert channel in events[publication.sequence - 1]


@given(EVENTS)
def test_reading_on_reaches_the_end(events: list[set[str]]) -> None:
    at, seen = 0, 0
    while True:
        rest = [channels if number >= at else set() for number, channels in enumerate(events)]
        merged, more = merge_by_sequence(histories(rest, 3), 3)
        seen += len(merged)
        if not more:
            break
        at = merged[-1][1].sequence
    assert seen == len(events)
