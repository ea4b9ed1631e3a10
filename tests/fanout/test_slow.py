"""A slow reader costs a cursor: it is caught up when it reads again, and the others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway.fanout.connection import Connection
from gateway.fanout.options import HubOptions
from gateway.store.channels import ChannelStore
from tests.fanout.conftest import StartNode
from tests.fanout.support import Node, WsClient, publish, ws
from tests.support.waiting import LIMIT, eventually

FILLER = "x" * 20_000


async def narrow(port: int) -> socket.socket:
    """A connection whose own side takes next to nothing unread."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


@contextlib.asynccontextmanager
async def sleepy(node: Node, channel: str) -> AsyncIterator[WsClient]:
    """A subscriber with tiny buffers that reads only when told to."""
    sock = await narrow(node.port)
    before = set(node.hub.connections)
    async with connect(node.ws, sock=sock, compression=None, max_size=None, max_queue=(1, 0)) as opened:
        client = WsClient(opened)
        await client.connect()
        (mine,) = set(node.hub.connections) - before
        shrink(mine)
        await client.subscribe(channel)
        yield client


def shrink(connection: Connection) -> None:
    transport: Any = connection.sink
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    transport.set_write_buffer_limits(high=4096)


async def test_superseded_progress_is_left_out_and_told_and_nothing_else(
    start: StartNode, channels: ChannelStore
) -> None:
    node = await start()
    async with ws(node, max_queue=None) as quick, sleepy(node, "open:job") as slow:
        await quick.subscribe("open:job")
        for number in range(100):
            await publish(channels, "open:job", data=[number, FILLER], type_="job.progress", key=f"j{number % 2}")
            if number % 10 == 0:
                await publish(channels, "open:job", data=["kept", number])
        pubs = await quick.pubs(110)
        assert [pub["offset"] for pub in pubs] == list(range(1, 111))
        assert node.hub.counters.slow >= 1
        seen: list[dict[str, Any]] = []
        while not seen or seen[-1]["offset"] < 110:
            seen += await slow.pubs(1)
        skipped = sum(int(pub.get("tags", {}).get("skipped", 0)) for pub in seen)
        assert skipped > 0
        assert len(seen) + skipped == 110
        kept = [pub["data"]["data"][1] for pub in seen if pub["data"]["type"] == "test.event"]
        assert kept == list(range(0, 100, 10))
        offsets = [pub["offset"] for pub in seen]
        assert offsets == sorted(offsets)
        await publish(channels, "open:job", data="after")
        assert (await slow.pubs(1))[0]["offset"] == 111


async def test_a_very_slow_reader_is_caught_up_from_the_history(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    async with ws(node) as quick, sleepy(node, "open:a") as slow:
        await quick.subscribe("open:a")
        for number in range(900):
            await publish(channels, "open:a", data=[number, FILLER[:2000]])
        await quick.pubs(900)
        (topic,) = node.hub.topics.values()
        assert topic.floor > 0
        pubs = await slow.pubs(900)
        assert [pub["offset"] for pub in pubs] == list(range(1, 901))


async def test_a_stuck_reader_is_closed(start: StartNode, channels: ChannelStore) -> None:
    node = await start(options=HubOptions(connect=0.2, ping=0.3, stuck=0.5, farewell=0.3))
    async with sleepy(node, "open:a") as slow:
        for number in range(20):
            await publish(channels, "open:a", data=[number, FILLER])
        await eventually(lambda: node.hub.counters.closed == {"3008": 1})
        await eventually(lambda: not node.hub.connections)
        with pytest.raises(ConnectionClosed):
            await slow.pubs(1000)


async def test_a_slow_stream_is_caught_up_in_order(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    sock = await narrow(node.port)
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    writer.write(b"GET /v1/stream?channel=open:a&channel=open:b HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"id: ")
    shrink(next(iter(node.hub.connections)))
    for number in range(120):
        key = "" if number % 10 else "k"
        await publish(channels, f"open:{'ab'[number % 2]}", data=[number, FILLER], key=key, type_="job.progress")
    seen: list[int] = []
    skipped = 0
    buffer = b""
    while not seen or seen[-1] < 119:
        buffer += await asyncio.wait_for(reader.read(65536), LIMIT)
        *blocks, buffer = buffer.split(b"\n\n")
        for block in blocks:
            data = block.partition(b"data: ")[2]
            if data:
                event = json.loads(data)
                seen.append(event["data"][0])
                skipped += event.get("skipped", 0)
    writer.transport.abort()
    assert seen == sorted(set(seen))
    assert len(seen) + skipped == 120
    assert {n for n in range(120) if n % 10} <= set(seen)


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="Linux has it")
async def test_the_kernel_does_not_hide_a_slow_reader(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    sock = await narrow(node.port)
    async with connect(node.ws, sock=sock, compression=None, max_size=None, max_queue=(1, 0)) as opened:
        client = WsClient(opened)
        await client.connect()
        await client.subscribe("open:a")
        opened.transport.pause_reading()
        sent = 0
        while not node.hub.counters.slow:
            await publish(channels, "open:a", data=FILLER)
            sent += len(FILLER)
            assert sent < 512 * 1024  # without a bound the kernel takes megabytes
        opened.transport.abort()
