"""Writing: one pass per topic and turn, in small slices, round-robin (DESIGN 4.3).

An idle system writes at once. A busy one writes for at most `BUDGET` seconds per turn of the loop; what
arrives meanwhile waits in the rings and makes the next batch larger, so load makes deliveries cheaper.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING

from gateway.fanout.bulletin import Bulletins
from gateway.fanout.options import Counters
from gateway.fanout.topic import Topic
from gateway.fanout.wire import Batch, Wire

if TYPE_CHECKING:
    from gateway.fanout.connection import Connection, Subscription
    from gateway.fanout.stream import Stream

BUDGET = 0.005
SLICE = 64  # subscriptions between two looks at the clock


class Pass:
    """One batch of a topic on its way to everyone who is live."""

    __slots__ = ("batch", "epoch", "first", "groups", "hi", "last", "lo", "topic")

    def __init__(self, topic: Topic, batch: Batch) -> None:
        self.topic, self.batch, self.epoch = topic, batch, topic.epoch
        newest = batch.entries[-1].publication
        self.lo, self.hi = topic.delivered, newest.offset
        self.first, self.last = batch.entries[0].publication.sequence, newest.sequence
        # A snapshot per wire: who joins later has its own offset, who leaves is no longer live.
        self.groups: deque[tuple[Wire, list[Subscription], int]] = deque(
            (Wire(wire), list(members), 0) for wire, members in enumerate(topic.live) if members
        )

    def step(self) -> int:
        """Write one slice; returns to how many subscriptions. Those that pull count for themselves."""
        if self.epoch != self.topic.epoch:
            self.groups.clear()  # the topic began again: the same offsets mean something else now
        if not self.groups:
            return 0
        wire, members, start = self.groups.popleft()
        part = members[start : start + SLICE]
        if wire is Wire.PULL:
            for subscription in part:
                if subscription.live:
                    subscription.connection.advance(subscription)
        elif wire is Wire.BLOCK:
            self._write_blocks(part)
        else:
            self._write(part, self.batch.encoded(wire))
        if start + SLICE < len(members):
            self.groups.appendleft((wire, members, start + SLICE))
        return 0 if wire is Wire.PULL else len(part)

    def _write(self, part: list[Subscription], data: bytes) -> None:
        lo, hi = self.lo, self.hi
        for subscription in part:
            if subscription.live:
                if subscription.offset == lo:
                    subscription.offset = hi
                    subscription.write(data)
                else:
                    subscription.connection.advance(subscription)

    def _write_blocks(self, part: list[Subscription]) -> None:
        lo, hi, first, last, data = self.lo, self.hi, self.first, self.last, self.batch.blocks
        for subscription in part:
            if subscription.live:
                stream: Stream = subscription.connection  # type: ignore[assignment] # only streams take blocks
                if subscription.offset == lo and stream.cursor < first:
                    subscription.offset, stream.cursor = hi, last
                    subscription.write(data)
                else:
                    stream.advance(subscription)


class Pump:
    """Does all writing that is not an answer to a client. `drained` is called when everyone has everything."""

    def __init__(self, loop: asyncio.AbstractEventLoop, counters: Counters, drained: Callable[[], None]) -> None:
        self._loop = loop
        self._drained = drained
        self._counters = counters
        self._passes: deque[Pass] = deque()
        self._behind: dict[Connection, None] = {}
        self._bulletins = Bulletins(counters)
        self._scheduled = False

    def deliver(self, topics: Iterable[Topic]) -> None:
        """Write what the topics accepted: now, as far as this turn's budget goes."""
        for topic in topics:
            if not topic.passing:
                self._begin(topic)
        self._work()

    def resume(self, connection: Connection) -> None:
        """Catch a connection up, soon."""
        self._behind[connection] = None
        self._schedule()

    def tell(self, topic: Topic, lines: list[bytes]) -> None:
        """Tell who listens about joins and leaves, behind what is being delivered."""
        self._bulletins.add(topic, lines)
        self._schedule()

    def _begin(self, topic: Topic) -> None:
        batch = topic.next_batch()
        topic.passing = batch is not None
        if batch is not None:
            self._counters.batches += 1
            self._passes.append(Pass(topic, batch))

    def _finish(self, done: Pass) -> None:
        topic = done.topic
        if topic.epoch == done.epoch:  # otherwise it began again meanwhile
            topic.delivered = max(topic.delivered, done.hi)
        topic.trim()
        self._begin(topic)

    def _work(self) -> None:
        deadline = monotonic() + BUDGET
        passes, behind, bulletins = self._passes, self._behind, self._bulletins
        while passes or behind or bulletins:
            if passes:
                current = passes.popleft()
                seen = current.step()
                self._counters.deliveries += seen * len(current.batch.entries)
                if current.groups:
                    passes.append(current)
                else:
                    self._finish(current)
            if behind:
                connection = next(iter(behind))
                del behind[connection]
                if not connection.closing and connection.catch_up():
                    behind[connection] = None
            if bulletins:
                bulletins.step()
            if monotonic() > deadline:
                break
        if not passes:
            self._drained()
        if passes or behind or bulletins:
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self._work()
