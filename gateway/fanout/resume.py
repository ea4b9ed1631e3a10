"""How a reader that was away or slow is brought up to date. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gateway.events import Position
from gateway.fanout.wire import Entry, fill

MAX_IN_REPLY = 300  # publications in a subscribe reply; the rest follows as pushes
MAX_REPLY_BYTES = 192 * 1024


class Slice(NamedTuple):
    """An entry to send, and how many superseded ones were left out before it."""

    entry: Entry
    skipped: int


def conflate(entries: Sequence[Entry]) -> list[Slice]:
    """Leave out publications that a later one with the same conflation key supersedes.

    Only the newest of a key is kept, in its place, and says how many it stands for.
    """
    newest: dict[str, int] = {}
    counts: dict[str, int] = {}
    for index, entry in enumerate(entries):
        key = entry.publication.key
        if key:
            counts[key] = counts.get(key, -1) + 1
            newest[key] = index
    kept: list[Slice] = []
    for index, entry in enumerate(entries):
        key = entry.publication.key
        if not key:
            kept.append(Slice(entry, 0))
        elif newest[key] == index:
            kept.append(Slice(entry, counts[key]))
    return kept


def whole(entries: Iterable[Entry]) -> list[Slice]:
    """Leave nothing out: what recovery sends."""
    return [Slice(entry, 0) for entry in entries]


def merge(runs: Sequence[Sequence[Entry]], after: int) -> list[Entry]:
    """Merge runs that ascend by sequence into one that strictly ascends, from the first sequence > `after`.

    An event on several channels has one sequence and appears once.
    """
    merged: list[Entry] = []
    last = after
    ordered = heapq.merge(*runs, key=_sequence) if len(runs) > 1 else runs[0] if runs else ()
    for entry in ordered:
        if entry.publication.sequence > last:
            merged.append(entry)
            last = entry.publication.sequence
    return merged


def _sequence(entry: Entry) -> int:
    return entry.publication.sequence


class Reply(NamedTuple):
    """What a subscribe reply says.

    Attributes:
        recovered: everything after the asked position is sent, in the reply or as pushes after it.
        entries: the publications in the reply.
        position: the reader's position after them.
    """

    recovered: bool
    entries: Sequence[Entry]
    position: Position


def answer(
    asked: Position | None,
    head: Position,
    missed: Sequence[Entry] | None,
    *,
    all_there: bool,
    room: int = MAX_REPLY_BYTES,
) -> Reply:
    """Decide a subscribe reply.

    Args:
        asked: where the client says it stands, or None when it does not want to recover.
        head: the channel's head as the hub has it.
        missed: the publications after the asked position, or None when they cannot be proven complete.
        all_there: `missed` reaches the head; otherwise there is more to read after it.
        room: bytes of publications the reply may hold; none at all when it is not positive.
    """
    if asked is None or missed is None:
        return Reply(recovered=False, entries=(), position=head)
    part = fill(missed[:MAX_IN_REPLY], room) if room > 0 else ()
    if all_there and len(part) == len(missed):
        return Reply(recovered=True, entries=part, position=head)
    last = part[-1].publication.offset if part else asked.offset
    return Reply(recovered=True, entries=part, position=Position(head.epoch, last))
