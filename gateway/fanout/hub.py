"""The hub: all live connections of one process, and the topics they read (DESIGN 4.3)."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Self

import structlog

from gateway.auth.principals import Credential
from gateway.events import Publication, parse_live
from gateway.fanout import bulletin
from gateway.fanout.connection import Connection
from gateway.fanout.feed import Feed
from gateway.fanout.options import Counters, HubOptions
from gateway.fanout.presence import Presence
from gateway.fanout.pump import Pump
from gateway.fanout.reads import Reads
from gateway.fanout.repair import Repairer
from gateway.fanout.stream import Stream, StreamSpec
from gateway.fanout.topic import RING_BYTES, RING_COUNT, Topic
from gateway.fanout.topics import Topics
from gateway.fanout.wheel import TICK, Wheel
from gateway.fanout.wire import Wire
from gateway.store.channels import ChannelStore
from gateway.store.presence import PresenceStore

log = structlog.get_logger(__name__)

JobState = Callable[[str, str], Awaitable[bytes | None]]
_BOUND_EVERY = 10  # ticks: looking at ten thousand topics takes a millisecond
_OVERFULL = 16  # rings a topic may grow to while its readers are written to; then the feed waits


class Hub:
    """`async with Hub(url, channels, job_state) as hub:`; everything runs on the loop that entered it.

    Attributes:
        topics: by pub/sub channel.
        connections: all live ones.
        node: this process' name among those that share the store.
        presence: who is on which channel, as far as this process knows.
        draining: no new connections; those that come are sent away.
        options: durations and bounds.
        counters: totals for the metrics.
        revoked: whether a credential has been revoked meanwhile, see `evictions`.
    """

    loop: asyncio.AbstractEventLoop
    wheel: Wheel
    pump: Pump

    def __init__(
        self, url: str, channels: ChannelStore, job_state: JobState, options: HubOptions | None = None
    ) -> None:
        self.options = options or HubOptions()
        self.counters = Counters()
        self.channels = channels
        self.job_state = job_state
        self.connections: set[Connection] = set()
        self.draining = False
        self.revoked: Callable[[Credential], bool] = lambda _: False
        self.node = secrets.token_hex(8)
        self._handlers: dict[bytes, Callable[[bytes], None]] = {}
        self._empty = asyncio.Event()
        self.feed = Feed(url, self)
        self._registry = Topics(channels, self.feed, self.options)
        self.topics = self._registry.by_name
        self.attached, self.in_time = self._registry.attached, self._registry.in_time
        self.release, self.has = self._registry.release, self._registry.has
        self.presence = Presence(self, PresenceStore(channels.store))
        self._repairer = Repairer(self)
        self.reads = Reads(channels, self.options.reads, self._known)
        self._work: set[asyncio.Task[None]] = set()
        self._choked = self._failing = False

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self.wheel = Wheel(self.loop.time())
        self.pump = Pump(self.loop, self.counters, self._unchoke)
        await self.feed.__aenter__()
        self.keep(self._tick)
        self.keep(self._repairer.probe)
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in list(self.connections):
            connection.abort()
        await self.feed.__aexit__(None, None, None)
        for task in self._work:
            task.cancel()
        while self._work:
            await asyncio.wait(self._work)
        await self.presence.close()

    @property
    def ready(self) -> bool:
        """Whether live events arrive: the feed is connected and the hub is not going away."""
        return self.feed.connected and not self.draining and not self._failing

    # Tasks.

    def spawn(self, owner: Connection | None, work: Coroutine[Any, Any, None]) -> None:
        """Run something for as long as the hub lives. A fault ends its connection, not the hub.

        Faults go no further than `_guarded`, so a TaskGroup would only add to what each message of a client costs.
        """
        task = self.loop.create_task(self._guarded(owner, work))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def keep(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something for as long as the hub lives: when it ends or fails it begins again, a second later."""
        self.spawn(None, self._for_ever(work))

    async def _guarded(self, owner: Connection | None, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            log.exception("hub.task_failed")
            if owner is not None:
                owner.abort()

    async def _for_ever(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await work()
            except Exception:
                self._failing = True
                log.exception("hub.loop_failed")
            await asyncio.sleep(1)
            self._failing = False

    async def _tick(self) -> None:
        while True:
            for _ in range(_BOUND_EVERY):
                await asyncio.sleep(TICK)
                now = self.loop.time()
                self.wheel.advance(now)
                self._registry.expire(now)
            self._registry.bound()

    # Connections.

    def enter(self, connection: Connection) -> None:
        """A connection has begun; meanwhile its credential may have been revoked, or everyone been sent away."""
        self.connections.add(connection)
        if self.draining:
            self.loop.call_soon(connection.farewell)
        if connection.credential is not None and self.revoked(connection.credential):
            self.loop.call_soon(connection.revoke)

    def leave(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    async def drain(self) -> None:
        """Send everyone away, spread out, and wait until they have gone or had their time."""
        self.draining = True
        leaving = list(self.connections)
        random.shuffle(leaving)
        steps = max(1, min(len(leaving), round(self.options.drain / 0.05)))
        for step in range(steps):
            for connection in leaving[step::steps]:
                connection.farewell()
            if len(leaving) > 1:
                await asyncio.sleep(self.options.drain / steps)
        self._empty = asyncio.Event()
        if self.connections:
            with suppress(TimeoutError):  # whoever has not answered by then is cut off
                await asyncio.wait_for(self._empty.wait(), self.options.farewell)
        for connection in list(self.connections):
            connection.abort()

    # Topics.

    def in_step(self, topic: Topic) -> None:
        """A topic has been repaired: deliver, and wake who waited."""
        topic.wake()
        self.pump.deliver([topic])
        for subscription in (*topic.lagging, *topic.live[Wire.PULL]):
            self.pump.resume(subscription.connection)

    def lose(self, topic: Topic, reason: str) -> None:
        """The continuity of a topic could not be proven: tell every reader."""
        self.counters.resets += 1
        for subscription in topic.subscriptions():
            subscription.connection.lose(topic, reason)

    def late(self, topic: Topic, sequence: int) -> None:
        """A hole from `sequence` on was found: streams that went past it on other channels start over."""
        for subscription in (*topic.lagging, *topic.live[Wire.PULL]):
            stream = subscription.connection
            if isinstance(stream, Stream) and len(stream.subscriptions) > 1 and stream.cursor >= sequence:
                stream.lose(topic, "order")

    # What the feed brings.

    def listen(self, name: bytes, handler: Callable[[bytes], None]) -> None:
        """Hand over what is published to a pub/sub channel that is not a topic's. A lost feed loses messages."""
        self._handlers[name] = handler
        self.feed.subscribe(name)

    def on_messages(self, messages: list[tuple[bytes, bytes]]) -> None:
        """See `feed.Listener`."""
        touched: dict[Topic, list[Publication]] = {}
        topics = self.topics
        for name, payload in messages:
            topic = topics.get(name)
            if topic is not None:
                try:
                    touched.setdefault(topic, []).append(parse_live(payload))
                except ValueError:
                    self._other(topic, payload)
            elif name in self._handlers:
                self._handlers[name](payload)
        now = self.loop.time()
        for topic, publications in touched.items():
            self.counters.publications += len(publications)
            topic.receive(publications)
            topic.verified = now
            if topic.holding:
                if not topic.syncing:
                    self._repairer.need(topic)
            elif topic.passing and self._overfull(topic):
                self._choke()
        # All rings are filled before anyone is written to: streams merge them in order.
        self.pump.deliver(touched)

    def _other(self, topic: Topic, payload: bytes) -> None:
        if not payload.startswith(bulletin.MARK):
            # Not from a recorder of ours. If it stood for an offset, the next publication shows the hole.
            log.warning("hub.foreign_message", size=len(payload))
        elif topic.listeners:
            self.pump.tell(topic, bulletin.parse(payload))

    def on_subscribed(self, name: bytes) -> None:
        """See `feed.Listener`."""
        topic = self.topics.get(name)
        if topic is not None:
            self._repairer.need(topic)

    def on_lost(self) -> None:
        """See `feed.Listener`."""
        self.counters.feed_lost += 1
        self._choked = False
        for topic in self.topics.values():
            topic.holding = True
        self.presence.doubt()

    def _overfull(self, topic: Topic) -> bool:
        return topic.ring_bytes > _OVERFULL * RING_BYTES or len(topic.entries) > _OVERFULL * RING_COUNT

    def _choke(self) -> None:
        if not self._choked:
            self._choked = True
            self.feed.pause()

    def _unchoke(self) -> None:
        if self._choked:
            self._choked = False
            self.feed.resume()

    def _known(self, spec: StreamSpec, sequence: int) -> None:
        for channel in spec.channels:
            topic = self._registry.find(spec.tenant, channel)
            if topic is not None:
                topic.known_from = min(topic.known_from, sequence)
