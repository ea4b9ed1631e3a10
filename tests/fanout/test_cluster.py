"""The fan-out on a Redis Cluster: one link hears all masters, and goes to another node when its own is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
from redis.crc import key_slot

from gateway.errors import GatewayError
from gateway.events import draft, new_id
from gateway.store.channels import ChannelStore
from gateway.store.redis import Store
from tests.fanout.support import Node, WsClient, node, settings_for, token, ws
from tests.fanout.test_emulation import STREAM, emulated
from tests.support.clusters import SLOTS, RedisCluster
from tests.support.waiting import eventually

TENANTS = ("t1", "t0", "t4")  # on the first, second and third master


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as running:
        yield running


@pytest.fixture
async def gateway(cluster: RedisCluster) -> AsyncIterator[Node]:
    async with node(settings_for(cluster.url, shards=8)) as running:
        yield running


@pytest.fixture
async def channels(cluster: RedisCluster) -> AsyncIterator[ChannelStore]:
    settings = settings_for(cluster.url, shards=8)
    async with Store.open(settings) as store:
        yield ChannelStore(store, settings)


async def publish(channels: ChannelStore, tenant: str, data: int) -> None:
    event = draft("test.event", b"%d" % data, id_=new_id("evt_"), source="/tests")
    await channels.publish(tenant, ["open:a"], event)


async def subscribed(stack: AsyncExitStack, gateway: Node, tenant: str) -> WsClient:
    client = await stack.enter_async_context(ws(gateway, hello=False))
    assert "connect" in await client.connect(token=token(tenant=tenant))
    assert "subscribe" in await client.subscribe("open:a")
    return client


async def datas(client: WsClient, count: int) -> list[int]:
    return [pub["data"]["data"] for pub in await client.pubs(count, 20)]


async def test_one_link_hears_every_master_and_nobody_elses_tenant(gateway: Node, channels: ChannelStore) -> None:
    async with AsyncExitStack() as stack:
        clients = [await subscribed(stack, gateway, tenant) for tenant in TENANTS]
        for number in range(100):
            for place, tenant in enumerate(TENANTS):
                await publish(channels, tenant, 1000 * place + number)
        for place, client in enumerate(clients):
            assert await datas(client, 100) == [1000 * place + number for number in range(100)]
    # Live, not by repair: a message that took the bus too long may have been read from the history before it came.
    await eventually(lambda: gateway.hub.counters.publications == 300)


async def test_the_feeds_node_dies_and_the_others_tenants_lose_nothing(
    cluster: RedisCluster, gateway: Node, channels: ChannelStore
) -> None:
    await eventually(lambda: gateway.hub.ready)
    assert gateway.hub.feed.node is not None
    at = next(number for number, server in enumerate(cluster.nodes) if server.port == gateway.hub.feed.node.port)
    tenants = [tenant for place, tenant in enumerate(TENANTS) if place != at]
    async with AsyncExitStack() as stack:
        clients = [await subscribed(stack, gateway, tenant) for tenant in tenants]
        for number in range(50):
            for tenant in tenants:
                await publish(channels, tenant, number)
        await asyncio.to_thread(cluster.nodes[at].kill)
        try:
            for number in range(50, 100):
                for tenant in tenants:
                    await publish(channels, tenant, number)
            for client in clients:
                assert await datas(client, 100) == list(range(100))
            assert gateway.hub.feed.node.port != cluster.nodes[at].port
            with pytest.raises(GatewayError):
                await publish(channels, TENANTS[at], 0)
        finally:
            await asyncio.to_thread(cluster.nodes[at].start)
            await asyncio.to_thread(cluster.settle)
        lost = await subscribed(stack, gateway, TENANTS[at])
        await publish(channels, TENANTS[at], 7)
        assert await datas(lost, 1) == [7]
    assert gateway.hub.counters.resets == 0


async def test_a_node_that_hears_nothing_any_more_is_left(
    cluster: RedisCluster, gateway: Node, channels: ChannelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lives and answers, but what is published no longer reaches it: the probe sees that, and the feed goes."""
    async with AsyncExitStack() as stack:
        client = await subscribed(stack, gateway, TENANTS[0])
        await eventually(lambda: gateway.hub.ready)
        deaf = gateway.hub.feed.node
        assert deaf is not None
        link = gateway.hub.feed._link
        monkeypatch.setattr(gateway.hub, "on_messages", lambda _messages: None)
        await publish(channels, TENANTS[0], 1)
        await eventually(lambda: gateway.hub.feed._link not in (None, link))
        monkeypatch.undo()
        assert gateway.hub.feed.node != deaf
        await publish(channels, TENANTS[0], 2)
        assert await datas(client, 2) == [1, 2]
    del cluster


async def test_emulated_commands_arrive_whichever_server_the_nodes_feed_hears(
    cluster: RedisCluster, gateway: Node
) -> None:
    """PUBLISH counts the listeners at one server only: a node that listens at another must still be found."""
    own = gateway.channels.node_channel(gateway.hub.node)
    publisher = key_slot(own) * 3 // SLOTS
    heard_at = (publisher + 1) % 3

    def hears_there() -> bool:
        feed = gateway.hub.feed
        if feed.node is not None and feed.node.port == cluster.nodes[heard_at].port:
            return bool(cluster.ask(heard_at, "PUBSUB", "NUMSUB", own.decode())[1])  # type: ignore[index] # a list
        if feed._link is not None:
            feed._link.end("for the test")
        return False

    async with node(settings_for(cluster.url, shards=8)) as other, emulated(STREAM, gateway, other) as client:
        await client.connected()
        await eventually(hears_there, 20)
        assert (await client.post({"id": 2, "ping": {}}, node="f" * 16)).status_code == 404
        assert "subscribe" in await client.ask(subscribe={"channel": "open:a"})
