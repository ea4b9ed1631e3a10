"""The hub: all live connections of one process, and the topics they read (DESIGN 4.3)."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import structlog

from gateway.errors import StoreUnavailable
from gateway.events import Publication, parse_live
from gateway.fanout.connection import Connection
from gateway.fanout.feed import Feed
from gateway.fanout.options import Counters, HubOptions
from gateway.fanout.pump import Pump
from gateway.fanout.reads import Reads
from gateway.fanout.repair import Repairer
from gateway.fanout.stream import Stream, StreamSpec
from gateway.fanout.topic import RING_BYTES, RING_COUNT, Topic
from gateway.fanout.wheel import TICK, Wheel
from gateway.fanout.wire import Wire
from gateway.store.channels import ChannelStore

log = structlog.get_logger(__name__)

JobState = Callable[[str, str], Awaitable[bytes | None]]
_OVERFULL = 16  # rings a topic may grow to while its readers are written to; then the feed waits


class Hub:
    """`async with Hub(url, channels, job_state) as hub:`; everything runs on the loop that entered it.

    Attributes:
        topics: by pub/sub channel.
        connections: all live ones.
        node: this process' name among those that share the store.
        draining: no new connections; those that come are sent away.
        options: durations and bounds.
        counters: totals for the metrics.
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
        self.topics: dict[bytes, Topic] = {}
        self.connections: set[Connection] = set()
        self.draining = False
        self.node = secrets.token_hex(8)
        self._handlers: dict[bytes, Callable[[bytes], None]] = {}
        self._empty = asyncio.Event()
        self.feed = Feed(url, self)
        self._repairer = Repairer(self)
        self._lingering: dict[Topic, float] = {}
        self.reads = Reads(channels, self.options.reads, self._known)
        self._tasks = asyncio.TaskGroup()
        self._work: set[asyncio.Task[None]] = set()
        self._choked = self._failing = False

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self.wheel = Wheel(self.loop.time())
        self.pump = Pump(self.loop, self.counters, self._unchoke)
        await self._tasks.__aenter__()
        await self.feed.__aenter__()
        self.spawn(None, self._for_ever(self._tick))
        self.spawn(None, self._for_ever(self._repairer.probe))
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in list(self.connections):
            connection.abort()
        await self.feed.__aexit__(None, None, None)
        for task in self._work:
            task.cancel()
        await self._tasks.__aexit__(None, None, None)

    @property
    def ready(self) -> bool:
        """Whether live events arrive: the feed is connected and the hub is not going away."""
        return self.feed.connected and not self.draining and not self._failing

    # Tasks.

    def spawn(self, owner: Connection | None, work: Coroutine[Any, Any, None]) -> None:
        """Run something on the hub's own group. A fault ends its connection, not the hub."""
        task = self._tasks.create_task(self._guarded(owner, work))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

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
            await asyncio.sleep(TICK)
            now = self.loop.time()
            self.wheel.advance(now)
            for topic, until in list(self._lingering.items()):
                if until > now:
                    break
                del self._lingering[topic]
                if not topic.users:
                    del self.topics[topic.name]
                    self.feed.unsubscribe(topic.name)

    # Connections.

    def enter(self, connection: Connection) -> None:
        """A connection has begun."""
        self.connections.add(connection)

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

    @asynccontextmanager
    async def attached(self, tenant: str, channels: Sequence[str]) -> AsyncIterator[list[Topic]]:
        """Hold topics while something joins them. They may not be in step yet: see `in_time`."""
        topics = [self._topic(tenant, channel) for channel in channels]
        try:
            yield topics
        finally:
            for topic in topics:
                topic.users -= 1
                self.release(topic)

    def _topic(self, tenant: str, channel: str) -> Topic:
        name = self._name(tenant, channel)
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = Topic(tenant, channel, name)
            self.feed.subscribe(name)
        topic.users += 1
        self._lingering.pop(topic, None)
        return topic

    def release(self, topic: Topic) -> None:
        """Let a topic nobody uses go, after a while."""
        if not topic.users and self.has(topic):
            self._lingering[topic] = self.loop.time() + self.options.linger

    def has(self, topic: Topic) -> bool:
        """Whether the topic is still the hub's."""
        return self.topics.get(topic.name) is topic

    async def in_time(self, topics: Sequence[Topic]) -> None:
        """Wait until all topics are in step with the store at one moment.

        Raises:
            StoreUnavailable: that took too long: Redis or the feed is away.
        """
        try:
            async with asyncio.timeout(self.options.attach):
                while held := [topic for topic in topics if topic.holding]:
                    waiter: asyncio.Future[None] = self.loop.create_future()
                    held[0].waiters.append(waiter)
                    await waiter
        except TimeoutError:
            raise StoreUnavailable from None

    def in_step(self, topic: Topic) -> None:
        """A topic has been repaired: deliver, and wake who waited."""
        topic.wake()
        self.pump.deliver([topic])
        for subscription in (*topic.lagging, *topic.live[Wire.PULL]):
            self.pump.resume(subscription.connection)

    def lose(self, topic: Topic, reason: str) -> None:
        """The continuity of a topic could not be proven: tell every reader."""
        self.counters.resets += 1
        for subscription in [member for group in (*topic.live, topic.lagging) for member in group]:
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
                touched.setdefault(topic, []).extend(_parse(payload))
            elif name in self._handlers:
                self._handlers[name](payload)
        self.counters.publications += len(messages)
        now = self.loop.time()
        for topic, publications in touched.items():
            topic.receive(publications)
            topic.verified = now
            if topic.holding:
                if not topic.syncing:
                    self._repairer.need(topic)
            elif topic.passing and self._overfull(topic):
                self._choke()
        # All rings are filled before anyone is written to: streams merge them in order.
        self.pump.deliver(touched)

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
            topic = self.topics.get(self._name(spec.tenant, channel))
            if topic is not None:
                topic.known_from = min(topic.known_from, sequence)

    def _name(self, tenant: str, channel: str) -> bytes:
        return self.channels.live_channel(tenant, channel).encode()


def _parse(payload: bytes) -> list[Publication]:
    try:
        return [parse_live(payload)]
    except ValueError:
        # Not from a recorder of ours. If it stood for an offset, the next publication shows the hole.
        log.warning("hub.foreign_message", size=len(payload))
        return []
