"""More than fits into one turn: slices, round-robin, a feed that has to wait, and memory that stays bounded."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from unittest.mock import Mock

import pytest

from gateway.events import draft
from gateway.fanout import hub, pump
from gateway.fanout.session import Session
from gateway.fanout.stats import gauges
from gateway.store.channels import ChannelStore, Outgoing
from tests.fanout.conftest import StartNode
from tests.fanout.support import Node, WsClient, sse, ws
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
    monkeypatch.setattr(hub, "_OVERFULL", 1)
    monkeypatch.setattr(hub, "RING_COUNT", 4)
    node: Node = await start()
    paused = Mock(wraps=node.hub.feed.pause)
    monkeypatch.setattr(node.hub.feed, "pause", paused)
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
    assert paused.called
    assert node.hub.counters.resets == 0
    await eventually(lambda: gauges(node.hub)["lagging"] == 0)


async def sees_all(client: WsClient, own: str, index: int) -> None:
    seen: dict[str, list[int]] = {"open:all": [], own: []}
    while sum(map(len, seen.values())) < COUNT + COUNT // 3:
        push = (await client.next())["push"]
        seen[push["channel"]].append(push["pub"]["data"]["data"])
    assert seen == {"open:all": list(range(COUNT)), own: list(range(index, COUNT, 3))}


async def test_a_client_that_does_not_read_its_answers_is_not_listened_to(start: StartNode) -> None:
    node: Node = await start()
    async with ws(node, max_queue=(1, 0)) as client:
        message = "\n".join(json.dumps({"id": n, "history": {"channel": "open:a"}}) for n in range(100, 300))

        async def flood_commands() -> None:
            while True:
                await client.socket.send(message)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flood_commands(), 3)
        (connection,) = node.hub.connections
        assert isinstance(connection, Session)
        assert len(connection.inbox) < 500
        client.socket.transport.abort()
    await eventually(lambda: not node.hub.connections)
