"""Joins and leaves on their way to the subscriptions that want them. No I/O.

They are told as they happen and never again: who is slow, recovering or away at that moment misses them, and
what comes faster than it can be written is left out. Presence says who is there.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from gateway.fanout.wire import Batch

if TYPE_CHECKING:
    from gateway.fanout.connection import Subscription
    from gateway.fanout.options import Counters
    from gateway.fanout.topic import Topic

MARK = b"2\n"  # a live message that begins so holds joins and leaves, one a line, instead of a publication
LIMIT = 64 * 1024  # bytes of a channel's joins and leaves that may wait to be written
SLICE = 64  # subscriptions between two looks at the clock

_KINDS = {b"+": b"join", b"-": b"leave"}


def parse(payload: bytes) -> list[bytes]:
    """Return the lines of a live message: `+` (has joined) or `-` (has left) and the client's info as JSON."""
    return [line for line in payload.removeprefix(MARK).split(b"\n") if line[:1] in _KINDS]


def pushes(channel: str, lines: list[bytes]) -> bytes:
    """Encode lines as the pushes of one frame."""
    prefix = b'{"push":{"channel":%b,"' % msgspec.json.encode(channel)
    return b"\n".join([b'%b%b":{"info":%b}}}' % (prefix, _KINDS[line[:1]], line[1:]) for line in lines])


class Bulletin:
    """One frame of joins and leaves of a topic, and who has not got it yet."""

    __slots__ = ("_at", "_batch", "_members")

    def __init__(self, topic: Topic, lines: list[bytes]) -> None:
        self._batch = Batch.of(pushes(topic.channel, lines))
        self._members: list[Subscription] = list(topic.listeners)
        self._at = 0

    def step(self) -> bool:
        """Write one slice; True when there is more to do."""
        part = self._members[self._at : self._at + SLICE]
        self._at += SLICE
        for subscription in part:
            if subscription.live:
                subscription.write(self._batch.encoded(subscription.connection.wire))
        return self._at < len(self._members)


class Bulletins:
    """What is to be told, a topic at a time."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._waiting: dict[Topic, list[bytes]] = {}
        self._sizes: dict[Topic, int] = {}
        self._now: deque[Bulletin] = deque()

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self._now or self._waiting)

    def add(self, topic: Topic, lines: list[bytes]) -> None:
        """Tell the topic's listeners, unless too much waits for them already."""
        size = self._sizes.get(topic, 0) + sum(map(len, lines))
        if size > LIMIT and topic in self._waiting:
            self._counters.untold += len(lines)
            return
        self._waiting.setdefault(topic, []).extend(lines)
        self._sizes[topic] = size

    def step(self) -> None:
        """Write one slice."""
        if not self._now:
            topic = next(iter(self._waiting))
            lines = self._waiting.pop(topic)
            del self._sizes[topic]
            self._counters.told += len(lines)
            self._now.append(Bulletin(topic, lines))
        if not self._now[0].step():
            self._now.popleft()
