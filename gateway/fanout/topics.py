"""The topics of a hub: made when somebody needs one, let go a while after nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gateway.errors import StoreUnavailable
from gateway.fanout.topic import Topic

if TYPE_CHECKING:
    from gateway.fanout.feed import Feed
    from gateway.fanout.options import HubOptions
    from gateway.store.channels import ChannelStore


class Topics:
    """Keeps the feed subscribed to what its topics need.

    Attributes:
        by_name: by pub/sub channel.
    """

    def __init__(self, channels: ChannelStore, feed: Feed, options: HubOptions) -> None:
        self.by_name: dict[bytes, Topic] = {}
        self._channels = channels
        self._feed = feed
        self._options = options
        self._lingering: dict[Topic, float] = {}

    @contextmanager
    def attached(self, tenant: str, channels: Sequence[str]) -> Iterator[list[Topic]]:
        """Hold topics while something joins them. They may not be in step yet: see `in_time`."""
        topics = [self._take(tenant, channel) for channel in channels]
        try:
            yield topics
        finally:
            for topic in topics:
                topic.users -= 1
                self.release(topic)

    def _take(self, tenant: str, channel: str) -> Topic:
        name = self._name(tenant, channel)
        topic = self.by_name.get(name)
        if topic is None:
            topic = self.by_name[name] = Topic(tenant, channel, name)
            self._feed.subscribe(name)
        topic.users += 1
        self._lingering.pop(topic, None)
        return topic

    def release(self, topic: Topic) -> None:
        """Let a topic nobody uses go, after a while."""
        if not topic.users and self.has(topic):
            self._lingering[topic] = asyncio.get_running_loop().time() + self._options.linger

    def expire(self, now: float) -> None:
        """Let those go whose while is over."""
        for topic, until in list(self._lingering.items()):
            if until > now:
                break
            del self._lingering[topic]
            if not topic.users:
                del self.by_name[topic.name]
                self._feed.unsubscribe(topic.name)

    def bound(self) -> None:
        """Shrink all rings when together they take too much; who is behind is then caught up from the history."""
        cost = sum(topic.cost for topic in self.by_name.values())
        if cost > self._options.rings:
            share = self._options.rings / cost / 2
            for topic in self.by_name.values():
                topic.shrink(share)

    def has(self, topic: Topic) -> bool:
        """Whether the topic is still one of these."""
        return self.by_name.get(topic.name) is topic

    def find(self, tenant: str, channel: str) -> Topic | None:
        """Return the topic of a channel, if there is one."""
        return self.by_name.get(self._name(tenant, channel))

    async def in_time(self, topics: Sequence[Topic]) -> None:
        """Wait until all topics are in step with the store at one moment.

        Raises:
            StoreUnavailable: that took too long: Redis or the feed is away.
        """
        if not any(topic.holding for topic in topics):
            return  # nearly always: no timer is needed
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._options.attach):
                while held := [topic for topic in topics if topic.holding]:
                    waiter: asyncio.Future[None] = loop.create_future()
                    held[0].waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        held[0].waiters.discard(waiter)  # who gave up, too, or an outage would collect them
        except TimeoutError:
            raise StoreUnavailable from None

    def _name(self, tenant: str, channel: str) -> bytes:
        return self._channels.live_channel(tenant, channel).encode()
