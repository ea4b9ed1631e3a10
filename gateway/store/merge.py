"""Merging the pasts of several channels into one stream. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

from gateway.events import Publication


def merge_by_sequence(
    histories: Mapping[str, list[Publication]], limit: int
) -> tuple[list[tuple[str, Publication]], bool]:
    """Merge ascending histories by sequence; an event on several channels appears once.

    Args:
        histories: publications by channel, each read with at most `limit` entries.
        limit: a history of this length may go on beyond what was read; nothing after the earliest such end
            can be merged without risking a gap.

    Returns:
        (channel, publication) ascending, and whether there is more to read.
    """
    ends = [found[-1].sequence for found in histories.values() if len(found) >= limit]
    end = min(ends) if ends else None
    merged: list[tuple[str, Publication]] = []
    last = -1
    for channel, publication in heapq.merge(
        *(_with_channel(channel, found) for channel, found in histories.items()),
        key=lambda pair: pair[1].sequence,
    ):
        if end is not None and publication.sequence > end:
            break
        if publication.sequence != last:
            merged.append((channel, publication))
            last = publication.sequence
    return merged, end is not None


def _with_channel(channel: str, found: list[Publication]) -> Iterator[tuple[str, Publication]]:
    return ((channel, publication) for publication in found)
