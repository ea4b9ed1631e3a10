"""Waiting for the next publication on a channel, for what answers requests (`Prefer: wait`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.fanout.connection import Connection, Subscription
from gateway.fanout.hub import Hub
from gateway.fanout.topic import Topic
from gateway.fanout.wire import Wire


class _Nowhere:
    """A watcher only wants to know that there is something, not what."""

    def write(self, data: bytes) -> None:
        del data

    def close(self) -> None:
        """Nothing to close."""

    def abort(self) -> None:
        """Nothing to abort."""

    def is_closing(self) -> bool:
        return False


class _Watch(Connection):
    """A subscription that sets an event instead of writing."""

    __slots__ = ("changed",)
    wire = Wire.PULL

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self.sink = _Nowhere()
        self.changed = asyncio.Event()

    def advance(self, subscription: Subscription) -> bool:
        subscription.offset = subscription.topic.head
        self.changed.set()
        return False

    def catch_up(self) -> bool:
        self.changed.set()
        return False

    def lose(self, topic: Topic, reason: str) -> None:
        del topic, reason
        self.changed.set()


@asynccontextmanager
async def watch(hub: Hub, tenant: str, channel: str) -> AsyncIterator[asyncio.Event]:
    """Yield an event that is set by whatever is published on a channel from now on.

    Raises:
        StoreUnavailable: Redis or the feed is away.
    """
    with hub.attached(tenant, [channel]) as (topic,):
        await hub.in_time([topic])
        watching = _Watch(hub)
        subscription = Subscription(watching, topic, topic.head)
        subscription.go_live()
        try:
            yield watching.changed
        finally:
            subscription.end()
