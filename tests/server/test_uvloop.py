"""What `run` uses in production: the same on uvloop, whose transports are others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from redis.asyncio import Redis

from gateway.fanout.options import HubOptions
from gateway.settings import Settings
from tests.fanout.support import Node, node, publish, settings_for, sse, ws
from tests.support.waiting import LIMIT, eventually


def on_uvloop(settings: Settings, work: Callable[[Node], Awaitable[None]]) -> None:
    async def main() -> None:
        assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
        async with Redis.from_url(settings.redis_url) as client:
            await client.flushall()
        async with node(settings, HubOptions(drain=0.1)) as running:
            await work(running)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_both_kinds_are_handed_over(redis_url: str) -> None:
    async def work(running: Node) -> None:
        async with sse(running.port, "channel=open:a&channel=open:b") as stream, ws(running) as client:
            await stream.block()
            await client.subscribe("open:a")
            assert running.server is not None
            assert len(running.server.server_state.connections & set(running.hub.connections)) == 2
            for number in range(50):
                await publish(running.channels, "open:a", "open:b", data=[number, "x" * 20_000])
            assert [data[0] for data in await stream.datas(50)] == list(range(50))
            assert [pub["offset"] for pub in await client.pubs(50)] == list(range(1, 51))
            running.server.stop()
            while "event" not in (block := await stream.block()):
                pass
            assert block["event"] == "gateway.bye"

    on_uvloop(settings_for(redis_url), work)


def test_a_slow_reader_is_caught_up(redis_url: str) -> None:
    async def work(running: Node) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", running.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
        writer.write(b"GET /v1/stream?channel=open:a HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"id: ")
        (connection,) = running.hub.connections
        transport: Any = connection.sink
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for number in range(200):
            await publish(running.channels, "open:a", data=[number, "x" * 20_000])
        await eventually(lambda: connection.paused_at is not None)
        seen = b""
        while b"[199," not in seen:
            seen += await asyncio.wait_for(reader.read(1 << 20), LIMIT)
        places = [seen.index(b'"data":[%d,' % number) for number in range(200)]
        assert places == sorted(places)
        await eventually(lambda: connection.paused_at is None)
        writer.transport.abort()

    on_uvloop(settings_for(redis_url), work)
