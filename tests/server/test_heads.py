"""Who connects and does not ask is let go, and costs the others nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.server.heads import MAX_BYTES, Heads
from gateway.server.http import MAX_PIPELINE
from gateway.server.run import GatewayServer, ServerOptions, serving
from gateway.settings import Settings
from tests.support.waiting import LIMIT, eventually

ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Asker:
    def __init__(self) -> None:
        self.late = 0

    def too_late(self) -> None:
        self.late += 1


async def test_all_wait_equally_long_and_asking_again_buys_no_time() -> None:
    heads, first, second, third = Heads(1, 10), Asker(), Asker(), Asker()
    heads.wait(first)
    heads.wait(third)
    await asyncio.sleep(0.5)
    heads.wait(first)
    heads.wait(second)
    heads.came(third)
    await eventually(lambda: first.late)
    assert (first.late, second.late, len(heads)) == (1, 0, 1)
    await eventually(lambda: second.late)
    assert (first.late, second.late, third.late, len(heads)) == (1, 1, 0, 0)


async def test_one_too_many_ends_the_oldest() -> None:
    heads, askers = Heads(60, 3), [Asker() for _ in range(5)]
    for asker in askers:
        heads.wait(asker)
    assert [asker.late for asker in askers] == [1, 1, 0, 0, 0]
    for asker in askers:
        heads.came(asker)
    assert len(heads) == 0


async def hello(request: Request) -> Response:
    await request.body()
    await asyncio.sleep(float(request.query_params.get("sleep", "0")))
    return PlainTextResponse("hello")


@asynccontextmanager
async def served(**options: float) -> AsyncIterator[GatewayServer]:
    app = Starlette(routes=[Route("/", hello, methods=["GET", "POST"])])
    async with serving(app, Settings(), ServerOptions(port=0, **options)) as server:  # type: ignore[arg-type] # numbers
        yield server


async def says(server: GatewayServer, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send parts with pauses between them; returns what the server says until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for part in parts:
        writer.write(part)
        await asyncio.sleep(pause)
    try:
        return await asyncio.wait_for(reader.read(), LIMIT)
    except ConnectionResetError:
        return b"reset"
    finally:
        writer.transport.abort()


async def test_silence_is_answered_with_silence() -> None:
    async with served(head=0.2) as server:
        assert await says(server) == b""
        await eventually(lambda: not server.server_state.connections)


@pytest.mark.parametrize("head", [ASK, b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"])
async def test_a_head_that_dribbles_has_a_deadline_that_no_byte_renews(head: bytes) -> None:
    async with served(head=0.3) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        began = asyncio.get_running_loop().time()

        async def dribble() -> None:
            for byte in head * 100:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as group:
            dribbling = group.create_task(dribble())
            with suppress(ConnectionResetError):  # what is sent after the end may take the answer along
                assert (await asyncio.wait_for(reader.read(), LIMIT)).startswith(b"HTTP/1.1 408 ")
            dribbling.cancel()
        assert asyncio.get_running_loop().time() - began < 15
        writer.transport.abort()


@pytest.mark.parametrize("more", [b"\r\n", b"GET / HT"], ids=["empty lines", "half a request"])
async def test_a_kept_connection_has_the_deadline_again(more: bytes) -> None:
    async with served(head=0.3) as server:
        answer = await says(server, ASK, more, pause=0.1)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert (b"408" in answer) is (more != b"\r\n")


async def test_an_answer_under_way_is_not_cut_by_half_a_request_behind_it() -> None:
    async with served(head=0.2) as server:
        answer = await says(server, b"GET /?sleep=0.6 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HT")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"hello" in answer
        assert b"408" in answer


async def test_a_slow_body_is_not_a_slow_head() -> None:
    async with served(head=0.2) as server:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"
        assert (await says(server, head, b"a", b"b", b"cd", pause=0.2)).endswith(b"hello")


@pytest.mark.parametrize("start", [b"GET /" + b"a" * MAX_BYTES, b"GET / HTTP/1.1\r\nA: " + b"b" * MAX_BYTES])
async def test_a_head_that_is_too_large_is_refused(start: bytes) -> None:
    async with served() as server:
        assert (await says(server, start[:1000], start[1000:], pause=0.05)).startswith(b"HTTP/1.1 431 ")


BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (2 * MAX_BYTES) + b"b" * 2 * MAX_BYTES
LAST = b"GET / HTTP/1.1\r\nConnection: close\r\nA: "


@pytest.mark.parametrize("chunks", [[BODY + LAST], [BODY[:1000], BODY[1000:] + LAST], [BODY + ASK + LAST]])
async def test_a_body_is_not_counted_as_the_head_behind_it(chunks: list[bytes]) -> None:
    async with served() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await eventually(lambda: server.server_state.connections)
        (protocol,) = server.server_state.connections
        for chunk in chunks:
            protocol.data_received(chunk)  # as one read of a fast connection
        protocol.data_received(b"a" * (MAX_BYTES - 100))
        writer.write(b"\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), LIMIT)
        assert answer.count(b"HTTP/1.1 200 ") == answer.count(b"hello") == 2 + chunks[-1].count(ASK)
        writer.close()


async def test_a_head_behind_a_body_is_bounded_as_any() -> None:
    async with served() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await eventually(lambda: server.server_state.connections)
        (protocol,) = server.server_state.connections
        protocol.data_received(BODY + LAST)
        assert (await asyncio.wait_for(reader.readuntil(b"hello"), LIMIT)).startswith(b"HTTP/1.1 200 ")
        protocol.data_received(b"a" * (MAX_BYTES + 1))
        assert (await asyncio.wait_for(reader.read(), LIMIT)).startswith(b"HTTP/1.1 431 ")
        writer.close()


async def test_a_pipeline_is_bounded_and_answers_are_not_mixed() -> None:
    async with served() as server:
        few = await says(server, ASK * 5 + ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert few.count(b"hello") == 6
        many = await says(server, ASK * (MAX_PIPELINE + 2))
        assert b" 400 " not in many
        assert many.count(b"hello") <= 1


async def test_a_flood_of_silent_connections_keeps_nobody_out() -> None:
    async with served(heads=20) as server:
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(60)]
        assert (await says(server, ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))).endswith(b"hello")
        await eventually(lambda: len(server.server_state.connections) <= 20)
        for _, writer in silent:
            writer.transport.abort()
