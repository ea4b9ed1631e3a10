"""What can be tuned in the hub, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HubOptions:
    """Durations are seconds.

    Attributes:
        ping: between two `{}` pings to a WebSocket; a pong must have come by the next one.
        connect: a WebSocket that has not sent `connect` by then is closed (3502); for one whose `connect` is at work
            by then, the work may take as long again (3004).
        comment: between two comments on a stream, so that proxies keep it open.
        stuck: a reader whose buffer stays full for so long is closed (3008).
        grace: an expired connection may still refresh for so long (3005 after it).
        farewell: how long a peer may take to answer our close.
        linger: a topic nobody reads stays subscribed for so long.
        probe: a quiet topic's head is compared with the store's after so long.
        attach: a subscribe or a new stream waits at most so long for its topics.
        reads: concurrent reads from the store.
        subscriptions: per connection (error 106).
        backlog: messages of a client that may wait; with more than these we do not read from it.
        undelivered: bytes accepted and not yet written to everyone; above it the feed is not read.
        rings: bytes the rings of all topics may take together; past it all are shortened.
        drain: over how long connections are closed when the process stops.
        retry: a stream's reconnect hint is spread between these two.
        lease: a process that has not been heard of for so long has no members any more.
        members: in one answer about presence.
        rate: commands per second a client may send on end.
        burst: commands it may send at once; with as many again over that it is closed (3013).
        errors: commands refused for good in a row after which a client is closed (3509); temporary errors do not count.
    """

    ping: float = 25.0
    connect: float = 10.0
    comment: float = 15.0
    stuck: float = 30.0
    grace: float = 25.0
    farewell: float = 5.0
    linger: float = 5.0
    probe: float = 10.0
    attach: float = 5.0
    reads: int = 32
    subscriptions: int = 512
    backlog: int = 64
    undelivered: int = 8 * 1024 * 1024
    rings: int = 128 * 1024 * 1024
    drain: float = 3.0
    retry: tuple[float, float] = (1.0, 3.0)
    lease: float = 10.0
    members: int = 1000
    rate: float = 200.0
    burst: int = 2000
    errors: int = 1000


@dataclass(slots=True)
class Counters:
    """Totals since the start, except where said; the metrics read them.

    Attributes:
        deliveries: publications written, one per reader.
        batches: encoded batches.
        publications: received live.
        repairs: topics read from the history because of a start, a hole or a lost feed.
        holes: repairs that found publications the feed had not brought.
        resets: topics or streams whose continuity could not be proven.
        slow: connections that became slow readers.
        conflated: superseded publications left out for slow readers.
        closed: connections closed by us, by code or reason.
        feed_lost: how often the feed lost its connection.
        told: joins and leaves pushed, one per channel's frame, whatever the number of its subscribers.
        untold: joins and leaves left out because they came faster than they could be written.
        refused: commands over a client's rate.
    """

    deliveries: int = 0
    batches: int = 0
    publications: int = 0
    repairs: int = 0
    holes: int = 0
    resets: int = 0
    slow: int = 0
    conflated: int = 0
    feed_lost: int = 0
    told: int = 0
    untold: int = 0
    refused: int = 0
    closed: dict[str, int] = field(default_factory=dict)

    def count_close(self, reason: str) -> None:
        """Count a close by us; reasons are our own few words."""
        self.closed[reason] = self.closed.get(reason, 0) + 1
