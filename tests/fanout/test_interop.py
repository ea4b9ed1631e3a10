"""Other people's client: centrifuge-python."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from centrifuge import (
    Client,
    PublicationContext,
    SubscribedContext,
    SubscriptionEventHandler,
    SubscriptionState,
)
from redis.asyncio import Redis

from gateway.store.channels import ChannelStore
from tests.fanout.conftest import StartNode
from tests.fanout.support import Node, publish, token
from tests.support.waiting import eventually

pytestmark = pytest.mark.interop


class Recorder(SubscriptionEventHandler):  # type: ignore[misc] # the library has no types
    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.subscribed: list[tuple[bool, bool]] = []

    async def on_publication(self, ctx: PublicationContext) -> None:
        self.offsets.append(ctx.pub.offset)

    async def on_subscribed(self, ctx: SubscribedContext) -> None:
        self.subscribed.append((ctx.was_recovering, ctx.recovered))


async def test_it_subscribes_publishes_and_recovers(start: StartNode, channels: ChannelStore, redis: Redis) -> None:
    node: Node = await start()

    async def get_token() -> str:
        return token("ann")

    client = Client(node.ws, get_token=get_token, proxy=None, min_reconnect_delay=0.05)
    recorder = Recorder()
    subscription = client.new_subscription("open:chat", events=recorder)
    await client.connect()
    await subscription.subscribe()
    await subscription.ready(5)
    said: dict[str, Any] = {"text": "hello"}
    await subscription.publish(data=said)
    await eventually(lambda: recorder.offsets == [1])
    history = await client.history("open:chat", limit=10)
    assert (history.offset, history.publications[0].data) == (1, said)
    for connection in list(node.hub.connections):
        connection.abort()  # a network that goes away
    for number in range(350):
        await publish(channels, "open:chat", data=number)
    await redis.client_kill_filter(_type="pubsub")
    await eventually(lambda: recorder.offsets == list(range(1, 352)))
    assert recorder.subscribed == [(False, False), (True, True)]
    await subscription.unsubscribe()
    assert subscription.state == SubscriptionState.UNSUBSCRIBED
    await client.disconnect()
    await asyncio.sleep(0)
