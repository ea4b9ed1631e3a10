"""More than fits into one turn: slices, round-robin, a feed that has to wait, and memory that stays bounded."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import replace
from unittest.mock import Mock

import pytest

from gateway.events import draft
from gateway.fanout import hub, pump
from gateway.fanout.session import Session
from gateway.fanout.stats import gauges
from gateway.fanout.topic import RING_COUNT, Topic
from gateway.store.channels import ChannelStore, Outgoing
from tests.fanout.conftest import StartNode
from tests.fanout.endings import closed
from tests.fanout.support import QUICK, Node, WsClient, sse, ws
from tests.support.waiting import eventually

COUNT = 3000


async def flood(channels: ChannelStore, *names: str) -> None:
    events = [
        Outgoing(draft("a.b", b"%d" % number, id_=f"e{number}", source="/t"), [names[number % len(names)], "open:all"])
        for number in range(COUNT)
    ]
    await channels.publish_many("default", events)


async def test_everyone_gets_everything_in_order_when_a_turn_is_too_short(
    start: StartNode, channels: ChannelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "BUDGET", 0.0)
    monkeypatch.setattr(pump, "SLICE", 2)
    node: Node = await start()
    names = ["open:0", "open:1", "open:2"]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(ws(node)) for _ in range(12)]
        for index, client in enumerate(clients):
            await client.subscribe("open:all")
            await client.subscribe(names[index % 3])
        query = "&".join(f"channel={name}" for name in [*names, "open:all"])
        streams = [await stack.enter_async_context(sse(node.port, query)) for _ in range(3)]
        single = await stack.enter_async_context(sse(node.port, "channel=open:all"))
        assert gauges(node.hub)["live"] == 24 + 3 * 4 + 1
        await flood(channels, *names)
        async with asyncio.TaskGroup() as group:
            for index, client in enumerate(clients):
                group.create_task(sees_all(client, names[index % 3], index % 3))
        for stream in [*streams, single]:
            assert await stream.datas(COUNT) == list(range(COUNT))
    assert node.hub.counters.resets == 0
    await eventually(lambda: gauges(node.hub)["lagging"] == 0)


async def sees_all(client: WsClient, own: str, index: int) -> None:
    seen: dict[str, list[int]] = {"open:all": [], own: []}
    while sum(map(len, seen.values())) < COUNT + COUNT // 3:
        push = (await client.next())["push"]
        seen[push["channel"]].append(push["pub"]["data"]["data"])
    assert seen == {"open:all": list(range(COUNT)), own: list(range(index, COUNT, 3))}


def arrive(node: Node, topic: Topic, offsets: range) -> None:
    """As if the feed had brought publications, in one turn of the loop."""
    header = b"1 %b %d %d 0 a.b - -\n%d"
    node.hub.on_messages([(topic.name, header % (topic.epoch.encode(), n, n, n)) for n in offsets])


async def test_a_drain_leaves_nothing_behind_that_has_arrived(
    start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "BUDGET", 0.0)
    monkeypatch.setattr(pump, "SLICE", 1)
    node: Node = await start()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(ws(node)) for _ in range(8)]
        for client in clients:
            await client.subscribe("open:a")
        streams = [await stack.enter_async_context(sse(node.port, "channel=open:a")) for _ in range(8)]
        (topic,) = node.hub.topics.values()
        arrive(node, topic, range(1, 4))
        await node.hub.drain()
        for client in clients:
            assert [pub["offset"] for pub in await client.pubs(3)] == [1, 2, 3]
            assert (await closed(client))[0] == 3001
        for stream in streams:
            assert [(await stream.event())["data"] for _ in range(3)] == ["1", "2", "3"]
            assert (await stream.event())["event"] == "gateway.bye"


async def test_the_feed_waits_while_a_topic_has_too_much_to_write(
    start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "BUDGET", 0.0)
    monkeypatch.setattr(pump, "SLICE", 1)
    monkeypatch.setattr(hub, "_OVERFULL", 1)
    node: Node = await start()
    paused, resumed = Mock(wraps=node.hub.feed.pause), Mock(wraps=node.hub.feed.resume)
    monkeypatch.setattr(node.hub.feed, "pause", paused)
    monkeypatch.setattr(node.hub.feed, "resume", resumed)
    async with ws(node) as one, ws(node) as two:
        await one.subscribe("open:a")
        await two.subscribe("open:a")
        (topic,) = node.hub.topics.values()
        arrive(node, topic, range(1, 10))
        paused.assert_not_called()
        arrive(node, topic, range(10, 1000))
        paused.assert_called_once()
        for client in (one, two):
            assert [pub["offset"] for pub in await client.pubs(999)] == list(range(1, 1000))
        await eventually(lambda: resumed.called)
        assert len(topic.entries) <= 2 * RING_COUNT


async def test_a_client_that_does_not_read_its_answers_is_not_listened_to(start: StartNode) -> None:
    node: Node = await start(options=replace(QUICK, rate=1e6, burst=1_000_000))  # its rate is another matter
    async with ws(node, max_queue=(1, 0)) as client:
        message = "\n".join(json.dumps({"id": n, "history": {"channel": "open:a"}}) for n in range(100, 300))

        async def flood_commands() -> None:
            while True:
                await client.socket.send(message)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flood_commands(), 3)
        (connection,) = node.hub.connections
        assert isinstance(connection, Session)
        assert len(connection.talking().inbox) < 500
        client.socket.transport.abort()
    await eventually(lambda: not node.hub.connections)


@pytest.mark.parametrize("count", [20, 100])
async def test_all_rings_together_are_bounded(start: StartNode, channels: ChannelStore, count: int) -> None:
    node = await start(options=replace(QUICK, rings=200_000))
    names = [f"open:{number}" for number in range(count)]
    async with ws(node) as client:
        for name in names:
            await client.subscribe(name)
        await flood(channels, *names)
        await eventually(lambda: sum(topic.cost for topic in node.hub.topics.values()) < 200_000)
        for name in names:  # what the rings lost is in the history
            await client.ask(unsubscribe={"channel": name})
        reply = (await client.subscribe(names[0], recover=True, epoch="", offset=0))["subscribe"]
        missed = [pub["offset"] for pub in reply["publications"]]
        assert reply["recovered"]
        assert missed == list(range(1, len(missed) + 1))
        assert missed
