"""A topic: one channel as the hub sees it. No I/O, no clock."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING

from gateway.events import Position, Publication
from gateway.fanout.wire import Batch, Entry, Wire, fill, push_prefix

if TYPE_CHECKING:
    import asyncio

    from gateway.fanout.connection import Subscription

RING_COUNT = 256
RING_BYTES = 256 * 1024
ENTRY_BYTES = 512  # about what an entry takes beside its event
HELD = 1024  # live publications kept while a hole is being read


class Topic:
    """The ring of recent publications of a channel, and who reads it.

    The ring holds every publication after `floor` up to `head`; up to `delivered` the live subscriptions have
    them. While `holding` the hub reads the channel's history (a start, a hole, a lost feed) and what arrives
    live waits in `held`.

    Attributes:
        epoch: the channel's epoch, "" until first read.
        head: offset of the newest publication accepted, -1 until first read.
        known_from: every publication with a larger tenant sequence has passed through the ring.
        trimmed: the largest sequence the ring no longer holds.
        live: subscriptions that have everything up to `delivered`, by wire form.
        lagging: all others: slow, recovering, or waiting for a read.
        listeners: subscriptions that want to hear who joins and leaves.
        users: subscriptions and attaches in progress; at 0 the topic may go.
        verified: when the head was last seen to be the store's (loop time).
    """

    __slots__ = (
        "backfill",
        "channel",
        "delivered",
        "entries",
        "epoch",
        "floor",
        "head",
        "held",
        "holding",
        "known_from",
        "lagging",
        "listeners",
        "live",
        "name",
        "passing",
        "prefix",
        "ring_bytes",
        "stale",
        "syncing",
        "tenant",
        "trimmed",
        "users",
        "verified",
        "waiters",
    )

    def __init__(self, tenant: str, channel: str, name: bytes) -> None:
        self.tenant, self.channel, self.name = tenant, channel, name
        self.prefix = push_prefix(channel)
        self.epoch, self.head, self.floor, self.delivered = "", -1, -1, -1
        self.entries: list[Entry] = []
        self.ring_bytes = 0
        self.known_from: float = inf
        self.trimmed = 0
        self.holding, self.syncing, self.stale, self.passing = True, False, False, False
        self.held: list[Publication] = []
        self.live: tuple[dict[Subscription, None], ...] = tuple({} for _ in Wire)
        self.lagging: dict[Subscription, None] = {}
        self.listeners: dict[Subscription, None] = {}
        self.waiters: set[asyncio.Future[None]] = set()
        self.backfill: asyncio.Lock | None = None
        self.users = 0
        self.verified = 0.0

    @property
    def position(self) -> Position:
        """The newest accepted position."""
        return Position(self.epoch, self.head)

    def subscriptions(self) -> list[Subscription]:
        """Return everyone who reads it."""
        return [member for group in (*self.live, self.lagging) for member in group]

    def receive(self, publications: Iterable[Publication]) -> None:
        """Accept live publications: the next ones enter the ring, repeats are dropped, a jump starts holding."""
        for publication in publications:
            if not self.holding:
                self._accept(publication)
            elif len(self.held) < HELD:
                self.held.append(publication)
            else:
                self.held.clear()  # the history has them
                self.stale = True

    def _accept(self, publication: Publication) -> None:
        if publication.epoch != self.epoch or publication.offset > self.head + 1:
            self.holding = True
            self.held.append(publication)
        elif publication.offset == self.head + 1:
            self._append(publication)

    def _append(self, publication: Publication) -> None:
        entry = Entry(publication)
        self.entries.append(entry)
        self.ring_bytes += entry.size
        self.head = publication.offset

    def begin(self, position: Position) -> None:
        """Start, or start over, at a position, with nothing before it."""
        self.epoch = position.epoch
        self.floor = self.head = self.delivered = position.offset
        self.entries, self.ring_bytes, self.known_from = [], 0, inf
        self.trimmed = 0  # sequences of another generation do not compare

    def repair(self, publications: Iterable[Publication], head: int | None) -> None:
        """Add what the history says follows our head; `head` is the channel's, when the reading reached it.

        The history may skip offsets: superseded progress is pruned from job channels.
        """
        for publication in publications:
            if publication.offset > self.head:
                self._append(publication)
        if head is not None:
            self.head = max(self.head, head)

    def release(self) -> bool:
        """Take in what was held and stop holding; False when it shows a further hole."""
        held, self.held, self.holding = self.held, [], False
        if self.stale:
            self.stale = False
            self.holding = True
        self.receive(held)
        return not self.holding

    def after(self, offset: int) -> Sequence[Entry] | None:
        """Return the accepted publications after an offset, or None when the ring does not reach back."""
        if offset < self.floor:
            return None
        return self.entries[bisect_right(self.entries, offset, key=_offset) :]

    def after_sequence(self, sequence: int) -> Sequence[Entry] | None:
        """Return the accepted publications after a tenant sequence, or None when some may be missing."""
        if sequence < self.trimmed or sequence < self.known_from:
            return None
        return self.entries[bisect_right(self.entries, sequence, key=_sequence) :]

    def next_batch(self) -> Batch | None:
        """Return what the live subscriptions get next: at most one frame, or None when they have all."""
        waiting = self.entries[bisect_right(self.entries, self.delivered, key=_offset) :]
        if not waiting:
            self.delivered = self.head
            return None
        return Batch(self.prefix, fill(waiting))

    def prepend(self, entries: Sequence[Entry], floor: int) -> None:
        """Extend the ring backwards to `floor` with what the history has, as far as it may grow."""
        older = [entry for entry in entries if entry.publication.offset <= self.floor]
        size = sum(entry.size for entry in older)
        if len(older) + len(self.entries) <= RING_COUNT and size + self.ring_bytes <= RING_BYTES:
            self.entries[:0] = older
            self.ring_bytes += size
            self.floor = floor

    @property
    def cost(self) -> int:
        """About how many bytes of memory the ring takes."""
        return self.ring_bytes + ENTRY_BYTES * len(self.entries)

    def trim(self) -> None:
        """Drop the oldest delivered publications beyond the bounds, half a ring at a time."""
        if len(self.entries) > 2 * RING_COUNT or self.ring_bytes > 2 * RING_BYTES:
            self._drop(RING_COUNT, RING_BYTES)

    def shrink(self, share: float) -> None:
        """Keep only a share of what the ring holds now, and what is not delivered yet."""
        self._drop(int(len(self.entries) * share), int(self.ring_bytes * share))

    def _drop(self, most: int, room: int) -> None:
        count, size = 0, self.ring_bytes
        for entry in self.entries:
            within = len(self.entries) - count <= most and size <= room
            if within or entry.publication.offset > self.delivered:
                break
            count, size = count + 1, size - entry.size
        if count:
            last = self.entries[count - 1].publication
            self.floor, self.trimmed = last.offset, max(self.trimmed, last.sequence)
            del self.entries[:count]
            self.ring_bytes = size

    def wake(self) -> None:
        """Tell everyone who waits for the topic to be in step with the store."""
        waiters, self.waiters = self.waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _offset(entry: Entry) -> int:
    return entry.publication.offset


def _sequence(entry: Entry) -> int:
    return entry.publication.sequence
