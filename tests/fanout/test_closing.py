"""The ends of WebSockets, frame by frame."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.auth.principals import Principal
from gateway.fanout.options import HubOptions
from gateway.fanout.stream import StreamSpec
from gateway.fanout.websocket import WebSocketConnection
from tests.fanout.conftest import StartNode
from tests.fanout.endings import closed
from tests.fanout.support import Block, Node, token, ws
from tests.faults.wire import CLOSE, UPGRADE, Cutter, frame
from tests.support.waiting import LIMIT, eventually

PING = 0x89


class Raw:
    """A WebSocket after its handshake, as bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._cutter = Cutter()

    async def frames(self, limit: float = LIMIT) -> list[tuple[int, bytes]]:
        """Wait for some frames; none when the connection has ended."""
        async with asyncio.timeout(limit):
            while data := await self.reader.read(65536):
                self._cutter.add(data)
                if found := list(self._cutter.frames()):
                    return found
        return []

    async def rest(self) -> list[tuple[int, bytes]]:
        """Read to the end of the connection."""
        found: list[tuple[int, bytes]] = []
        while more := await self.frames():
            found += more
        return found


@asynccontextmanager
async def raw(node: Node) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    try:
        writer.write(UPGRADE)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("way", ["revoke", "farewell"])
async def test_nothing_follows_a_close_frame(start: StartNode, way: str) -> None:
    block = Block()
    node = await start(calls={"test.block": block})
    async with raw(node) as client:
        client.writer.write(frame(b'{"id":1,"connect":{}}'))
        await client.frames()
        client.writer.write(frame(b'{"id":2,"ping":{}}\n{"id":3,"rpc":{"method":"test.block"}}'))
        await block.called.wait()
        (connection,) = node.hub.connections
        assert isinstance(connection, WebSocketConnection)
        talk = connection.talking()
        getattr(connection, way)()
        block.release.set()
        await eventually(lambda: not talk.running)
        client.writer.write(frame(b"are you there", PING))
        client.writer.write(frame(struct.pack("!H", 1000), CLOSE))
        seen = await client.rest()
        firsts = [first for first, _ in seen]
        assert firsts.count(CLOSE) == 1
        assert firsts[-1] == CLOSE, seen
        assert b'"id":2' in b"".join(payload for _, payload in seen), "what was answered before the close came"


@pytest.mark.parametrize("answered", [True, False])
async def test_who_waits_for_our_answer_to_connect_is_not_stale(
    start: StartNode,
    monkeypatch: pytest.MonkeyPatch,
    answered: bool,  # noqa: FBT001 - parametrized
) -> None:
    node = await start(options=HubOptions(connect=0.6, farewell=0.5))
    authenticator = node.app.state.authenticator
    verify, release, loop = authenticator.verify, asyncio.Event(), asyncio.get_running_loop()

    async def slow(credential: str) -> Principal:
        await release.wait()
        principal: Principal = await verify(credential)
        return principal

    monkeypatch.setattr(authenticator, "verify", slow)
    began = loop.time()
    async with ws(node, hello=False) as client:
        await client.send(connect={"token": token()})
        if answered:
            await eventually(lambda: loop.time() > began + 0.9)  # past the deadline for who says nothing
            release.set()
            assert "connect" in await client.next()
        else:
            assert await closed(client) == (3004, "internal server error")
            release.set()


async def test_who_was_just_being_let_in_when_everyone_was_sent_away_goes_as_well(
    start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await start()
    opening, release = asyncio.Event(), asyncio.Event()
    head = node.hub.reads.head

    async def slow(spec: StreamSpec) -> tuple[str, int]:
        opening.set()
        await release.wait()
        return await head(spec)

    monkeypatch.setattr(node.hub.reads, "head", slow)
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(b"GET /v1/stream?channel=open:a HTTP/1.1\r\nHost: x\r\n\r\n")
    await opening.wait()
    await node.hub.drain()
    release.set()
    answer = await asyncio.wait_for(reader.read(), LIMIT)
    assert answer.count(b"id: ") == 1, "the opening comes first, so that the reader can resume"
    assert b"event: gateway.bye" in answer[answer.index(b"id: ") :]
    assert b"shutdown" in answer
    await eventually(lambda: not node.hub.connections)
    writer.transport.abort()
