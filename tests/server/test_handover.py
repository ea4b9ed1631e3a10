"""The server gives connections away, and takes care of everything around that."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.middleware.cors import CORSMiddleware
from structlog.testing import capture_logs
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode

from gateway.server.run import ServerOptions, serving
from gateway.settings import Settings
from gateway.store.channels import ChannelStore
from tests.fanout.conftest import StartNode
from tests.fanout.support import Node, application, publish, sse, ws
from tests.support.waiting import LIMIT, eventually

SUBSCRIBE = b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"open:a"}}'
HANDSHAKE = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def guests(node: Node) -> int:
    assert node.server is not None
    registered: set[object] = set(node.server.server_state.connections)
    return len(registered & set(node.hub.connections))


async def test_a_stream_is_handed_over_and_the_books_are_right(start: StartNode) -> None:
    node = await start()
    assert node.server is not None
    with capture_logs() as logs:
        async with sse(node.port, "channel=open:a&token=") as client:
            await client.block()
            assert guests(node) == 1
            await eventually(lambda: node.server is not None and not node.server.server_state.tasks)
            assert node.server.server_state.total_requests == 1
    await eventually(lambda: node.server is not None and not node.server.server_state.connections)
    assert not node.hub.connections
    (line,) = [line for line in logs if line["event"] == "http.stream"]
    assert (line["path"], line["status"]) == ("/v1/stream", 200)
    assert "token" not in str(logs)


async def test_http_1_0_gets_a_stream(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    async with sse(node.port, "channel=open:a", version="1.0") as client:
        await client.block()
        assert guests(node) == 1
        await publish(channels, "open:a", data=1)
        assert await client.datas(1) == [1]


async def test_keep_alive_requests_before_a_stream_do_not_matter(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"Not Found")
    writer.write(b"GET /v1/stream?channel=open:a HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"id: ")
    assert guests(node) == 1
    await publish(channels, "open:a", data="here")
    await asyncio.wait_for(reader.readuntil(b"here"), LIMIT)
    writer.transport.abort()


@pytest.mark.parametrize(
    "tail", [b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /noth"], ids=["whole request", "part of one"]
)
async def test_a_pipelined_request_makes_the_stream_fall_back(
    start: StartNode, channels: ChannelStore, tail: bytes
) -> None:
    node = await start()
    async with sse(node.port, "channel=open:a", tail=tail) as client:
        assert client.headers["transfer-encoding"] == "chunked"
        await client.block()
        assert (guests(node), len(node.hub.connections)) == (0, 1)
        await publish(channels, "open:a", data=1)
        assert await client.datas(1) == [1]
    await eventually(lambda: not node.hub.connections)


async def test_a_body_that_is_not_all_there_makes_the_stream_fall_back(start: StartNode) -> None:
    node = await start()
    async with sse(node.port, "channel=open:a", "Content-Length: 5", tail=b"ab") as client:
        await client.block()
        assert (guests(node), len(node.hub.connections)) == (0, 1)


async def test_another_server_serves_the_same_hub(settings: Settings, channels: ChannelStore) -> None:
    async with application(settings) as app, asyncio.TaskGroup() as group:
        config = uvicorn.Config(app, port=0, http="h11", ws="websockets-sansio", log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        config.load()
        running = group.create_task(server._serve())
        await eventually(lambda: server.started)
        node = Node(app, app.state.hub, channels, None)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with (
            sse(port, "channel=open:a") as stream,
            connect(f"ws://127.0.0.1:{port}/connection/websocket") as socket,
        ):
            await stream.block()
            await socket.send(SUBSCRIBE.decode())
            while "subscribe" not in str(await socket.recv()):
                pass
            for number in range(200):
                await publish(channels, "open:a", data=number)
            assert await stream.datas(200) == list(range(200))
            seen: list[int] = []
            while len(seen) < 200:
                seen += [json.loads(line)["push"]["pub"]["offset"] for line in str(await socket.recv()).split("\n")]
            assert seen == list(range(1, 201))
            await node.hub.drain()
            assert (await stream.event())["event"] == "gateway.bye"
        server.should_exit = True
        await running


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", str(path), "-out", str(tmp_path / "cert.pem"), "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + (tmp_path / "cert.pem").read_text())
    return path


async def test_tls_connections_are_handed_over(start: StartNode, channels: ChannelStore, certificate: Path) -> None:
    node = await start(server=ServerOptions(port=0, certificate=str(certificate)))
    trust = ssl.create_default_context(cafile=str(certificate))
    async with (
        sse(node.port, "channel=open:a", tls=trust) as stream,
        connect(f"wss://127.0.0.1:{node.port}/connection/websocket", ssl=trust) as socket,
    ):
        await stream.block()
        await socket.send(SUBSCRIBE.decode())
        while "subscribe" not in str(await socket.recv()):
            pass
        assert guests(node) == 2
        await publish(channels, "open:a", data="x" * 100_000)
        assert await stream.datas(1) == ["x" * 100_000]
        assert "push" in str(await socket.recv())


async def test_what_a_client_sends_too_early_is_not_lost(start: StartNode) -> None:
    """Behind the handshake, cut anywhere: RFC 6455 forbids it, and it works all the same."""
    node = await start()
    frame = Frame(Opcode.TEXT, SUBSCRIBE).serialize(mask=True)
    for cut in (1, 5, len(frame)):
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(HANDSHAKE)
        await asyncio.sleep(0)
        writer.write(frame[:cut])
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame[cut:])
        await asyncio.wait_for(reader.readuntil(b'"subscribe":'), LIMIT)
        writer.transport.abort()


async def test_a_raw_client_breaking_the_rules_is_closed(start: StartNode) -> None:
    node = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(HANDSHAKE)
    await reader.readuntil(b"\r\n\r\n")
    writer.write(Frame(Opcode.TEXT, SUBSCRIBE).serialize(mask=False))
    answer = await asyncio.wait_for(reader.read(), LIMIT)
    assert answer[:1] == b"\x88"
    assert int.from_bytes(answer[2:4], "big") == 1002
    writer.close()
    await eventually(lambda: not node.hub.connections)


async def test_the_closing_handshake(start: StartNode) -> None:
    node = await start()
    async with ws(node) as client:
        await client.socket.close(1000, "done")
        assert (client.socket.close_code, client.socket.close_reason) == (1000, "done")
    await eventually(lambda: not node.hub.connections)
    async with ws(node) as client:
        assert await (await client.socket.ping(b"are you there"))
        await client.socket.send(["in ", "pieces"], text=True)
        await client.socket.wait_closed()
        assert client.socket.close_code == 3501


async def test_an_idle_connection_is_small(start: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    """A sanity check with a wide margin; both ends live in this process."""
    count = 2000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 3 * count)), hard))
    node = await start()
    async with sse(node.port, "channel=open:a") as first:
        await first.block()
        before = rss()
        opened: list[Any] = []
        for _ in range(count // 50):
            opened += await asyncio.gather(*(raw_stream(node.port) for _ in range(50)))
        await eventually(lambda: len(node.hub.connections) == count + 1)
        assert node.server is not None
        assert not node.server.server_state.tasks
        gc.collect()
        each = (rss() - before) / count
        with capsys.disabled():
            sys.stdout.write(f"\n{each / 1024:.1f} KiB per stream, client included\n")
        assert each < 24 * 1024
        for transport in opened:
            transport.abort()
    await eventually(lambda: not node.hub.connections)


async def raw_stream(port: int) -> asyncio.Transport:
    transport, protocol = await asyncio.get_running_loop().create_connection(_Opened, "127.0.0.1", port)
    transport.write(b"GET /v1/stream?channel=open:a HTTP/1.1\r\nHost: x\r\n\r\n")
    await protocol.heard
    return transport


class _Opened(asyncio.Protocol):
    __slots__ = ("heard",)

    def __init__(self) -> None:
        self.heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        del data
        if not self.heard.done():
            self.heard.set_result(None)


def rss() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def test_headers_that_middleware_adds_are_written(settings: Settings) -> None:
    async with application(settings) as app:
        app.add_middleware(CORSMiddleware, allow_origins=["https://app.example"])
        async with (
            serving(app, settings, ServerOptions(port=0)) as server,
            sse(server.port, "channel=open:a", "Origin: https://app.example") as client,
        ):
            await client.block()
            assert client.headers["access-control-allow-origin"] == "https://app.example"
            assert len(server.server_state.connections & set(app.state.hub.connections)) == 1


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ((b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8"), b"400"),
        ((b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""), b"400"),
        ((b"GET ", b"POST "), b"405"),
        ((b"Host: x", b"Host: x\r\nOrigin: https://elsewhere.example"), b"403"),
        ((b"/connection/websocket", b"/connection/nothing"), b"403"),  # what Starlette says to a WebSocket
    ],
    ids=["version", "no key", "method", "origin", "path"],
)
async def test_a_handshake_that_is_not_accepted_is_answered(
    start: StartNode, changed: tuple[bytes, bytes], status: bytes
) -> None:
    node = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(HANDSHAKE.replace(*changed))
    answer = await asyncio.wait_for(reader.read(), LIMIT)
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    assert not node.hub.connections
