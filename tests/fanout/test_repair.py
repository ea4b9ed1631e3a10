"""What the feed loses is found again: nothing is lost, nothing comes twice, and what cannot be proven is told."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.errors import StoreUnavailable
from gateway.fanout import feed
from gateway.fanout.options import HubOptions
from gateway.store.channels import ChannelStore
from gateway.store.redis import Store
from tests.fanout.conftest import StartNode
from tests.fanout.support import Node, port_of, publish, settings_for, sse, ws
from tests.support.proxy import TcpProxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

COUNT = 400


async def test_a_killed_feed_loses_nothing(start: StartNode, channels: ChannelStore, redis: Redis) -> None:
    node: Node = await start()
    query = "channel=open:a&channel=open:b"
    async with ws(node) as client, sse(node.port, query) as stream, sse(node.port, "channel=open:a") as single:
        await client.subscribe("open:a")
        await stream.block()
        await single.block()
        for number in range(COUNT):
            await publish(channels, *(("open:a", "open:b") if number % 3 else ("open:a",)), data=number)
            if number % 100 == 50:
                await redis.client_kill_filter(_type="pubsub")
        pubs = await client.pubs(COUNT)
        assert [pub["data"]["data"] for pub in pubs] == list(range(COUNT))
        assert [pub["offset"] for pub in pubs] == list(range(1, COUNT + 1))
        assert await stream.datas(COUNT) == list(range(COUNT))
        assert await single.datas(COUNT) == list(range(COUNT))
    assert node.hub.counters.feed_lost >= 1
    assert node.hub.counters.resets == 0


async def test_a_lost_message_is_found_by_the_next_one(start: StartNode, channels: ChannelStore) -> None:
    node: Node = await start()
    async with ws(node) as client, ws(node) as other:
        await client.subscribe("open:a")
        await other.subscribe("open:a")
        await publish(channels, "open:a", data=1)
        await client.pubs(1)
        await lose(node, channels, data=2)
        await publish(channels, "open:a", data=3)
        assert [pub["data"]["data"] for pub in await client.pubs(2)] == [2, 3]
        assert [pub["data"]["data"] for pub in await other.pubs(3)] == [1, 2, 3]
    assert node.hub.counters.holes == 1


async def test_a_lost_last_message_is_found_by_looking(start: StartNode, channels: ChannelStore) -> None:
    node: Node = await start()
    async with ws(node) as client, sse(node.port, "channel=open:a") as stream:
        await client.subscribe("open:a")
        await stream.block()
        await lose(node, channels, data="lost")
        assert [pub["data"]["data"] for pub in await client.pubs(1)] == ["lost"]
        assert await stream.datas(1) == ["lost"]


async def test_a_stream_that_went_past_a_hole_starts_over(start: StartNode, channels: ChannelStore) -> None:
    node: Node = await start()
    async with sse(node.port, "channel=open:a&channel=open:b") as stream:
        await stream.block()
        await lose(node, channels, data="lost")
        await publish(channels, "open:b", data="seen")
        assert await stream.datas(1) == ["seen"]
        assert (await stream.event())["event"] == "gateway.reset"
        await publish(channels, "open:a", "open:b", data="on")
        assert await stream.datas(1) == ["on"]


async def lose(node: Node, channels: ChannelStore, data: object) -> None:
    """Publish something that the node's feed does not bring."""
    dropped = asyncio.Event()
    original = node.hub.on_messages

    def drop(messages: list[tuple[bytes, bytes]]) -> None:
        del messages
        dropped.set()

    node.hub.on_messages = drop  # type: ignore[method-assign] # a feed that loses
    await publish(channels, "open:a", data=data)
    await dropped.wait()
    node.hub.on_messages = original  # type: ignore[method-assign] # and works again


async def test_a_hole_in_a_channel_without_history_is_told(start: StartNode, channels: ChannelStore) -> None:
    node: Node = await start()
    async with ws(node) as client:
        await client.subscribe("none:a")
        await publish(channels, "none:a")
        await client.pubs(1)
        original = node.hub.on_messages
        node.hub.on_messages = lambda messages: messages.clear()  # type: ignore[method-assign] # loses one
        await publish(channels, "none:a")
        await asyncio.sleep(0.05)
        node.hub.on_messages = original  # type: ignore[method-assign] # works again
        await publish(channels, "none:a")
        told = (await client.next())["push"]
        assert told == {"channel": "none:a", "unsubscribe": {"code": 2500, "reason": "insufficient state"}}
        assert "subscribe" in await client.subscribe("none:a")


async def test_a_silent_feed_is_cut_and_repaired(
    start: StartNode, redis_url: str, redis: Redis, channels: ChannelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    del redis
    monkeypatch.setattr(feed, "PING_EVERY", 0.1)
    monkeypatch.setattr(feed, "SILENCE", 0.5)
    async with TcpProxy(port_of(redis_url)) as proxy:
        node: Node = await start(settings=settings_for(proxy.url(redis_url)))
        async with ws(node) as client:
            await client.subscribe("open:a")
            proxy.stall()
            lost = node.hub.counters.feed_lost
            for number in range(20):
                await publish(channels, "open:a", data=number)
            await eventually(lambda: node.hub.counters.feed_lost > lost)
            proxy.drop()
            assert [pub["data"]["data"] for pub in await client.pubs(20, 20)] == list(range(20))


async def test_a_redis_that_forgot_is_told_to_everyone(start: StartNode, own_redis: RedisServer) -> None:
    settings, began = settings_for(own_redis.url), time.time()
    async with Store.open(settings) as store:
        channels = ChannelStore(store, settings)
        node: Node = await start(settings=settings)
        async with ws(node) as client, sse(node.port, "channel=open:a") as stream:
            epoch = (await client.subscribe("open:a"))["subscribe"]["epoch"]
            await stream.block()
            await publish(channels, "open:a", data=1)
            await client.pubs(1)
            assert await stream.datas(1) == [1]
            own_redis.kill()
            own_redis.wipe()
            await eventually(lambda: time.time() > began + 2)  # generations start from the clock, in seconds
            own_redis.start()
            assert (await client.next(20))["push"]["unsubscribe"]["code"] == 2500
            reply = (await client.subscribe("open:a", recover=True, epoch=epoch, offset=1))["subscribe"]
            assert not reply.get("recovered", False)
            assert reply["epoch"] != epoch
            reset = await stream.event(20)
            assert reset["event"] == "gateway.reset"
            while not await works(channels):  # noqa: ASYNC110 - a server has no event to wait for
                await asyncio.sleep(0.01)
            await publish(channels, "open:a", data=2)
            assert [pub["data"]["data"] for pub in await client.pubs(1)] == [2]
            assert await stream.datas(1) == [2]


async def test_a_stream_of_many_channels_is_told_once(start: StartNode, own_redis: RedisServer) -> None:
    settings = settings_for(own_redis.url)
    names = [f"open:{n}" for n in range(20)]
    async with Store.open(settings) as store:
        channels = ChannelStore(store, settings)
        node: Node = await start(settings=settings)
        async with sse(node.port, "&".join(f"channel={name}" for name in names)) as stream:
            await stream.block()
            await publish(channels, *names, data=1)
            assert await stream.datas(1) == [1]
            for _ in range(2):
                own_redis.restart()
                reset = await stream.event(20)
                assert (reset["event"], json.loads(reset["data"])) == ("gateway.reset", {"reason": "epoch"})
                while not await works(channels):  # noqa: ASYNC110 - a server has no event to wait for
                    await asyncio.sleep(0.01)
                await publish(channels, *names, data=2)
                assert await stream.datas(1) == [2]


async def works(channels: ChannelStore) -> bool:
    """Whether the pool has noticed that its connections were closed."""
    try:
        return bool(await channels.head("default"))
    except StoreUnavailable:
        return False


async def test_a_history_may_have_holes(start: StartNode, channels: ChannelStore, redis: Redis, redis_url: str) -> None:
    """Superseded progress of a job is pruned from its history; what the history says is all there is."""
    async with TcpProxy(port_of(redis_url)) as proxy:
        node: Node = await start(settings=settings_for(proxy.url(redis_url)))
        async with ws(node) as client:
            await client.subscribe("open:a")
            await publish(channels, "open:a", data=0)
            await client.pubs(1)
            proxy.cut()
            for number in range(1, 5):
                await publish(channels, "open:a", data=number)
            log = "{s00}:log:default:open:a"
            entries: list[Any] = list(await redis.xrange(log) or ())
            assert await redis.xdel(log, entries[2][0], entries[3][0]) == 2
            proxy.resume()
            assert [pub["offset"] for pub in await client.pubs(2)] == [2, 5]
            await publish(channels, "open:a", data=5)
            assert (await client.pubs(1))[0]["offset"] == 6
    assert node.hub.counters.resets == 0


async def test_who_gave_up_waiting_for_a_topic_is_not_remembered(start: StartNode) -> None:
    node = await start(options=HubOptions(attach=0.1))
    async with ws(node) as client:
        await client.subscribe("open:a")
        (topic,) = node.hub.topics.values()
        topic.holding = True
        with pytest.raises(StoreUnavailable):
            await node.hub.in_time([topic])
        assert not topic.waiters
        waiting = asyncio.ensure_future(node.hub.in_time([topic]))
        await eventually(lambda: topic.waiters)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert not topic.waiters
