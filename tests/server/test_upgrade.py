"""A usual handshake that does not end in a handover goes on as uvicorn's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from structlog.testing import capture_logs
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from gateway.server.run import GatewayServer, ServerOptions, serving
from gateway.settings import Settings
from tests.support.waiting import LIMIT, eventually

HANDSHAKE = (
    b"GET /%b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
PROTOCOLS = [Subprotocol("first"), Subprotocol("second")]


class Sockets:
    """Endpoints that behave; `ends` is how they ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def echo(self, socket: WebSocket) -> None:
        await socket.accept("second", headers=[(b"x-one", b"1")])
        try:
            while True:
                await socket.send_text(await socket.receive_text())
        except WebSocketDisconnect as gone:
            self.ends.append(f"closed {gone.code}")

    async def wait(self, socket: WebSocket) -> None:
        await socket.receive()
        self.asked.set()
        message = await socket.receive()
        self.ends.append(f"{message['type']} {message['code']}")

    async def slow(self, socket: WebSocket) -> None:
        self.asked.set()
        await self.go.wait()
        await self.echo(socket)

    async def fail(self, socket: WebSocket) -> None:
        raise ValueError(socket.url.path)

    async def leave(self, socket: WebSocket) -> None:
        """Return without a word."""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[GatewayServer]:
        endpoints = (self.echo, self.wait, self.slow, self.fail, self.leave)
        app = Starlette(routes=[WebSocketRoute(f"/{endpoint.__name__}", endpoint) for endpoint in endpoints])
        async with serving(app, Settings(), ServerOptions(port=0)) as server:
            yield server
            await eventually(lambda: not server.server_state.tasks)
            await eventually(lambda: not server.server_state.connections)

    @asynccontextmanager
    async def asked_for(
        self, server: GatewayServer, path: bytes
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A handshake that has reached its endpoint; the connection is cut in the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(HANDSHAKE % path)
            await asyncio.wait_for(self.asked.wait(), LIMIT)
            yield reader, writer
        finally:
            writer.transport.abort()


async def test_what_is_not_given_away_is_served() -> None:
    sockets = Sockets()
    async with sockets.serving() as server:
        async with connect(f"ws://127.0.0.1:{server.port}/echo?a=%20b", subprotocols=PROTOCOLS) as client:
            assert client.response is not None
            assert (client.response.headers["x-one"], client.subprotocol) == ("1", "second")
            for text in ("one", "two"):
                await client.send(text)
                assert await client.recv() == text
            await client.close(1000)
        await eventually(lambda: sockets.ends == ["closed 1000"])


async def test_what_came_too_early_is_served_after_the_answer() -> None:
    sockets = Sockets()
    async with sockets.serving() as server, sockets.asked_for(server, b"slow") as (reader, writer):
        writer.write(Frame(Opcode.TEXT, b"early").serialize(mask=True))
        await eventually(lambda: any(getattr(one, "_early", b"") for one in server.server_state.connections))
        sockets.go.set()
        await asyncio.wait_for(reader.readuntil(b"early"), LIMIT)


async def test_who_leaves_before_the_answer_is_told_to_the_application() -> None:
    sockets = Sockets()
    async with sockets.serving() as server:
        async with sockets.asked_for(server, b"wait"):
            pass
        await eventually(lambda: sockets.ends == ["websocket.disconnect 1006"])


async def test_an_answer_to_nobody_is_no_fault() -> None:
    sockets = Sockets()
    with capture_logs() as logs:
        async with sockets.serving() as server:
            async with sockets.asked_for(server, b"slow"):
                pass
            await eventually(lambda: not server.server_state.connections)
            sockets.go.set()
    assert "server.application_failed" not in {line["event"] for line in logs}


@pytest.mark.parametrize("path", ["fail", "leave"])
async def test_an_application_that_does_not_answer_is_answered_for(path: str) -> None:
    async with Sockets().serving() as server:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{server.port}/{path}")
        assert refused.value.response.status_code == 500


async def test_a_server_that_stops_does_not_wait_for_an_answer() -> None:
    sockets = Sockets()
    async with sockets.serving() as server, sockets.asked_for(server, b"wait") as (reader, _):
        server.stop()
        assert b" 500 " in await asyncio.wait_for(reader.readuntil(b"\r\n"), LIMIT)


async def test_a_server_that_stops_says_so_to_those_it_kept() -> None:
    sockets = Sockets()
    async with (
        sockets.serving() as server,
        connect(f"ws://127.0.0.1:{server.port}/echo", subprotocols=PROTOCOLS) as client,
    ):
        server.stop()
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(client.recv(), LIMIT)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
