"""Starting, stopping, draining."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import sse_starlette  # noqa: F401 - importing it replaces uvicorn's signal handling
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from websockets.exceptions import ConnectionClosed

from gateway.fanout.options import HubOptions
from gateway.server.run import ServerOptions, bind, serving
from gateway.settings import Settings
from tests.fanout.support import SseClient, node, sse, ws
from tests.support.process import free_port
from tests.support.waiting import LIMIT, eventually

PLAIN = Settings()


async def hello(request: Request) -> Response:
    del request
    return PlainTextResponse("hello")


async def fetch(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), LIMIT)
    writer.close()
    return answer


async def test_it_serves_inside_a_running_loop_and_stops_with_the_block() -> None:
    app = Starlette(routes=[Route("/", hello)])
    async with serving(app, PLAIN, ServerOptions(port=0)) as server:
        answer = await fetch(server.port)
        assert answer.endswith(b"hello")
        assert b"server:" not in answer.lower()
        port = server.port
    with pytest.raises(ConnectionRefusedError):
        await fetch(port)
    assert app.state.draining


async def test_it_serves_on_a_socket_it_is_given() -> None:
    sock = bind("127.0.0.1", 0, shared=True)
    port = sock.getsockname()[1]
    second = bind("127.0.0.1", port, shared=True)
    second.close()
    async with serving(Starlette(routes=[Route("/", hello)]), PLAIN, sockets=[sock]) as server:
        assert server.port == port
        assert (await fetch(port)).endswith(b"hello")


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has it")
async def test_a_peer_that_vanishes_is_noticed_within_a_minute(settings: Settings) -> None:
    async with node(settings) as running, ws(running):
        (connection,) = running.hub.connections
        sock = connection.sink.get_extra_info("socket")  # type: ignore[attr-defined] # a transport
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


async def test_a_taken_port_and_a_broken_application_say_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            async with serving(Starlette(), PLAIN, ServerOptions(port=taken.getsockname()[1])):
                pass

    @asynccontextmanager
    async def broken(app: Starlette) -> AsyncIterator[None]:
        del app
        if sys.argv:
            raise LookupError("no")
        yield

    with pytest.raises(RuntimeError, match="did not start"):
        async with serving(Starlette(lifespan=broken), PLAIN, ServerOptions(port=0)):
            pass


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(LookupError):
        async with serving(Starlette(), PLAIN, ServerOptions(port=0)):
            raise LookupError


async def said_bye(client: SseClient) -> dict[str, str]:
    while (block := await client.block()).get("event") != "gateway.bye":
        pass
    assert await asyncio.wait_for(client.reader.read(), LIMIT) == b""
    return block


async def test_open_connections_are_sent_away_and_the_stop_is_prompt(settings: Settings) -> None:
    async with (
        node(settings, HubOptions(drain=0.2, farewell=60)) as running,
        sse(running.port, "channel=open:a") as stream,
        ws(running) as client,
    ):
        assert running.server is not None
        running.server.stop()
        bye = await said_bye(stream)
        assert (bye["event"], json.loads(bye["data"])) == ("gateway.bye", {"reason": "shutdown"})
        assert 1000 <= int(bye["retry"]) <= 3000
        with pytest.raises(ConnectionClosed) as closed:
            await client.next()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (3001, "shutdown")
        await eventually(lambda: not running.hub.connections)
    assert running.app.state.draining
    assert not running.hub.ready


async def test_a_second_stop_does_not_wait(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    options = ServerOptions(port=0, pause=60)
    async with (
        node(settings, HubOptions(drain=60), options) as running,
        sse(running.port, "channel=open:a") as one,
        sse(running.port, "channel=open:a") as two,
    ):
        await one.block()
        await two.block()
        assert running.server is not None
        running.server.stop()
        await running.server.stopping.wait()
        running.server.stop()
    assert loop.time() - began < 30


PROGRAM = """
import sys
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
import sse_starlette
from gateway.server.run import ServerOptions, run
from gateway.settings import Settings
app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("hello"))])
run(app, Settings(), ServerOptions(port=int(sys.argv[1]), pause=float(sys.argv[2])))
print("cleaned up", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_program_and_its_caller_cleans_up(number: signal.Signals) -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(port), "0.3", stdout=asyncio.subprocess.PIPE, env={**os.environ}
    )

    async def answers() -> bool:
        try:
            return (await fetch(port)).endswith(b"hello")
        except ConnectionRefusedError:
            return False

    while not await answers():  # noqa: ASYNC110 - another process has no event to wait for
        await asyncio.sleep(0.05)
    process.send_signal(number)
    await asyncio.sleep(0.1)
    assert await answers(), "during the pause it still serves"
    output, _ = await asyncio.wait_for(process.communicate(), LIMIT)
    assert process.returncode == 0
    assert output.rstrip().endswith(b"cleaned up")
