"""What every live connection is to the hub: a protocol on a transport (or a sink), and its subscriptions.

A connection that has been handed over is this object and its transport: no task, no queue, no timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from gateway.auth.principals import Credential
from gateway.fanout.seats import Seat
from gateway.fanout.topic import Topic
from gateway.fanout.wire import Wire

if TYPE_CHECKING:
    from gateway.fanout.hub import Hub

log = structlog.get_logger(__name__)


class Sink(Protocol):
    """Where a connection writes: an asyncio transport, or a stand-in over ASGI `send`.

    Both call the connection's `pause_writing` and `resume_writing` around a full buffer and
    `connection_lost` once, at the end.
    """

    def write(self, data: bytes) -> None:
        """Queue bytes; never blocks."""

    def close(self) -> None:
        """Close after what is queued has gone."""

    def abort(self) -> None:
        """Close now."""

    def is_closing(self) -> bool:
        """Whether writing still makes sense."""


class DuplexSink(Sink, Protocol):
    """A sink whose peer talks, too."""

    def pause_reading(self) -> None:
        """Take nothing more from the peer."""

    def resume_reading(self) -> None:
        """Take more."""


class Subscription:
    """One channel on one connection.

    Attributes:
        offset: of the last publication written, whatever the reader's speed.
        write: the sink's own method, so that a delivery is one call.
        live: has everything the topic delivered; otherwise the connection catches up from `offset`.
        fetching: a read from the store is under way for it.
        recovering: nothing may be left out until it is live.
        server_side: the client did not ask for it; it cannot resubscribe on its own.
        expires: loop time at which its token ends, or None.
        grant: the subscription token it was allowed with, or None.
    """

    __slots__ = (
        "connection",
        "expires",
        "fetching",
        "grant",
        "live",
        "offset",
        "recovering",
        "server_side",
        "topic",
        "write",
    )

    def __init__(self, connection: Connection, topic: Topic, offset: int) -> None:
        self.connection = connection
        self.topic = topic
        self.offset = offset
        self.write: Callable[[bytes], Any] = connection.sink.write
        self.live = self.fetching = self.recovering = self.server_side = False
        self.expires: float | None = None
        self.grant: Credential | None = None
        topic.lagging[self] = None
        topic.users += 1

    def go_live(self) -> None:
        """From now on the topic's passes write to it."""
        self.topic.lagging.pop(self, None)
        self.topic.live[self.connection.wire][self] = None
        self.live, self.recovering = True, False

    def lag(self) -> None:
        """Passes leave it out; its connection catches it up."""
        if self.live:
            self.live = False
            del self.topic.live[self.connection.wire][self]
            self.topic.lagging[self] = None

    def end(self) -> None:
        """Take it off its topic."""
        self.lag()
        self.topic.lagging.pop(self, None)
        self.topic.users -= 1


class Connection(asyncio.Protocol):
    """Base of the WebSocket and the stream.

    Attributes:
        sink: set by `start`.
        registry: the server's set of open connections, which this one leaves when it ends.
        seat: its place among all connections, which it leaves as well.
        paused_at: since when (loop time) the buffer is full, or None.
        closing: we said goodbye; nothing more is delivered.
        closed: the transport is gone.
    """

    __slots__ = ("closed", "closing", "hub", "paused_at", "registry", "seat", "sink", "subscriptions", "wire")

    wire: Wire

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.sink: Sink
        self.registry: set[Any] | None = None
        self.seat: Seat | None = None
        self.subscriptions: dict[str, Subscription] = {}
        self.paused_at: float | None = None
        self.closing = self.closed = False

    def keep(self, seat: Seat) -> None:
        """Take a place; the end of the connection gives it back, so it is taken right before `start`."""
        self.seat, seat.kept = seat, True

    def start(self, sink: Sink, registry: set[Any] | None = None) -> None:
        """Take over a sink. Everything before the first byte of ours has been written to it."""
        self.sink, self.registry = sink, registry
        self.hub.enter(self)

    # What the transport calls.

    def pause_writing(self) -> None:
        """Become a slow reader: from here on a cursor, not a queue."""
        self.paused_at = self.hub.loop.time()
        self.hub.counters.slow += 1
        for subscription in self.subscriptions.values():
            subscription.lag()

    def resume_writing(self) -> None:
        """The buffer has drained."""
        self.paused_at = None
        if not self.closing:
            self.hub.pump.resume(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Leave every book."""
        self.closed = self.closing = True
        self.drop_subscriptions()
        if self.registry is not None:
            self.registry.discard(self)
        if self.seat is not None:
            self.seat.leave()
        self.hub.leave(self)

    # What the server and the hub call.

    def shutdown(self) -> None:
        """The server stops without a drain, or after it."""
        self.farewell()

    def abort(self) -> None:
        """Give the connection up without a word."""
        self.sink.abort()

    def drop_subscriptions(self) -> None:
        """End all subscriptions."""
        for subscription in self.subscriptions.values():
            subscription.end()
            self.hub.release(subscription.topic)
        self.subscriptions.clear()

    def advance(self, subscription: Subscription) -> bool:
        """Write one frame of what the subscription missed; True when there is more to write now."""
        raise NotImplementedError

    def catch_up(self) -> bool:
        """Write what the lagging subscriptions missed; True when there is more to write now."""
        raise NotImplementedError

    def lose(self, topic: Topic, reason: str) -> None:
        """Tell the client that the continuity of a topic could not be proven."""
        raise NotImplementedError

    @property
    def credential(self) -> Credential | None:
        """What a revocation is compared with; None before anybody is known."""
        raise NotImplementedError

    def revoke(self) -> None:
        """Say that the credential has been revoked, and close."""
        raise NotImplementedError

    def farewell(self) -> None:
        """Say that the server goes away, and close."""
        raise NotImplementedError

    def on_deadline(self, now: float) -> float | None:
        """See `wheel.Timed`."""
        raise NotImplementedError
