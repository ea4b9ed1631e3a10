"""Clients that break rules: refused with the right code, at a bounded cost, unnoticed by the others."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.fanout.options import HubOptions
from gateway.server.run import ServerOptions
from tests.e2e.clients import token
from tests.e2e.stack import client
from tests.fanout.mistakes import CONT, FIN, FRAMES, MESSAGES, PING, TEXT, raw
from tests.fanout.siege import Fort, built
from tests.faults.wire import CLOSE, Cutter, frame
from tests.support.waiting import LIMIT

CONNECT = frame(b'{"id":1,"connect":{}}')


@pytest.fixture(scope="module")
def fort(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fort]:
    """One gateway process for all attacks: what one of them leaves behind, the next would notice."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    with built(tmp_path_factory.mktemp("fort")) as fort:
        yield fort
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_frames_that_break_rules_are_refused_with_their_code(fort: Fort) -> None:
    async with fort.besieged():
        for greeting in ([], [CONNECT]):
            codes = {name: await fort.closed_with(*greeting, *parts) for name, (_, parts) in FRAMES.items()}
            assert codes == {name: code for name, (code, _) in FRAMES.items()}


async def test_frames_that_break_rules_do_it_also_byte_by_byte(fort: Fort) -> None:
    async with fort.besieged(), asyncio.TaskGroup() as group:
        small = {name: case for name, case in FRAMES.items() if sum(map(len, case[1])) < 60}
        tasks = {
            name: group.create_task(fort.closed_with(*[bytes([byte]) for part in parts for byte in part]))
            for name, (_, parts) in small.items()
        }
    assert {name: task.result() for name, task in tasks.items()} == {name: code for name, (code, _) in small.items()}


async def test_messages_that_are_not_commands_end_with_3501(fort: Fort) -> None:
    async with fort.besieged():
        codes = {name: await fort.closed_with(CONNECT, frame(message)) for name, message in MESSAGES.items()}
        assert codes == dict.fromkeys(MESSAGES, 3501)


async def test_a_thousand_subscribes_in_one_frame_are_answered_one_by_one(fort: Fort) -> None:
    subscribes = [b'{"id":%d,"subscribe":{"channel":"open:%d"}}' % (n, n) for n in range(3, 1003)]
    # The ping keeps the first subscribe apart, so that the bound falls into the middle of those that run together.
    lines = [b'{"id":1,"connect":{}}', subscribes[0], b'{"id":2,"ping":{}}', *subscribes[1:]]
    async with fort.besieged(32), fort.socket() as (reader, writer):
        writer.write(frame(b"\n".join(lines)))
        cutter = Cutter()
        answers: dict[int, Any] = {}
        async with asyncio.timeout(20):
            while len(answers) < 1002:
                cutter.add(await reader.read(65536))
                for first, payload in cutter.frames():
                    assert first != CLOSE, payload
                    answers |= {reply["id"]: reply for reply in map(json.loads, payload.split(b"\n"))}
        codes = [reply.get("error", {}).get("code", 0) for reply in answers.values()]
        assert (codes.count(0) - 2, codes.count(106)) == (512, 488)


async def test_other_peoples_channels_are_refused_everywhere(fort: Fort) -> None:
    mine = token("mallory")
    others = ["user:ann", "secret:a", "job:somebodys", "jobs", "user:mallory2", "user:", "user:Mallory"]
    async with fort.besieged():
        for channel in others:
            commands = [
                {"id": 1, "connect": {"token": mine}},
                {"id": 2, "subscribe": {"channel": channel}},
                {"id": 3, "history": {"channel": channel, "limit": 1}},
                {"id": 4, "publish": {"channel": channel, "data": 1}},
                {"id": 5, "subscribe": {"channel": "user:mallory"}},
            ]
            async with fort.socket() as (reader, writer):
                writer.write(frame("\n".join(map(json.dumps, commands)).encode()))
                cutter = Cutter()
                answers: dict[int, Any] = {}
                while len(answers) < len(commands):
                    cutter.add(await asyncio.wait_for(reader.read(65536), LIMIT))
                    for _, payload in cutter.frames():
                        answers |= {reply["id"]: reply for reply in map(json.loads, payload.split(b"\n"))}
            assert [answers[n].get("error", {}).get("code", 0) for n in (2, 3, 4, 5)] == [103, 103, 103, 0], channel
            status, *_ = await stream(fort, f"channel=user:mallory&channel={channel}", credential=mine)
            assert status == 403, channel


async def stream(fort: Fort, query: str, cursor: str = "", credential: str = "") -> tuple[int, str, bytes]:
    """Open a stream for a moment: status, the last id, everything."""
    lines = [f"GET /v1/stream?{query} HTTP/1.1", "Host: x", "Connection: close"]
    lines += [f"Last-Event-ID: {cursor}"] if cursor else []
    lines += [f"Authorization: Bearer {credential}"] if credential else []
    answer = await fort.ask("\r\n".join([*lines, "", ""]).encode(), quiet=0.3)
    ids = [line[4:] for line in answer.split(b"\n") if line.startswith(b"id: ")]
    return int(answer.split(b" ", 2)[1]), ids[-1].decode() if ids else "", answer


async def test_cursors_and_tickets_are_good_only_where_they_were_issued(fort: Fort) -> None:
    ann, bob, other = token("ann"), token("bob"), token("ann", tenant="other")
    tickets: dict[str, str] = {}
    for name, credential in (("ann", ann), ("ann2", ann), ("bob", bob), ("other", other)):
        async with client(fort.url, credential) as http:
            tickets[name] = (await http.post("/v1/tickets")).json()["ticket"]
    async with fort.besieged():
        cursors = {}
        for name, ticket in tickets.items():
            status, cursors[name], _ = await stream(fort, f"channel=open:x&ticket={ticket}")
            assert (status, cursors[name].count(".")) == (200, 2)
        for name, ticket in tickets.items():
            query = f"channel=open:x&ticket={ticket}"
            for whose, cursor in cursors.items():
                assert (await stream(fort, query, cursor))[0] == (200 if whose == name else 401), (name, whose)
            generation, sequence, mac = cursors[name].split(".")
            for forged in (
                f"{generation}.{sequence}",
                f"{generation}.{int(sequence, 36) + 1}.{mac}",
                f"{generation}.zzz.{mac}",
                f"{generation}1.{sequence}.{mac}",
                f"{generation}.{sequence}.{mac[:-1]}",
                f"{generation}.{sequence}.{'A' * 16}",
                f"{generation}.{sequence}.",
                "nonsense",
            ):
                assert (await stream(fort, query, forged))[0] == 401, (name, forged)
            assert (await stream(fort, query))[0] == 401, "a ticket opens once"


async def test_forged_cursors_of_open_streams_are_told_and_show_nobody_elses_events(fort: Fort) -> None:
    other = token("eve", tenant="other")
    async with fort.besieged():
        _, cursor, _ = await stream(fort, "channel=open:x")
        generation = cursor.split(".")[0]
        for forged in (
            "nonsense",
            "x" * 5000,
            f"{generation}.zzzzzzzzzzzzz",
            f"{generation}.zzzzzzzzzzzz",
            f"{generation}.",
            f"{'z' * 32}.1",
            f"{generation}.-1",
        ):
            status, last, answer = await stream(fort, "channel=open:x", forged)
            assert (status, b"event: gateway.reset" in answer) == (200, True), forged
            assert last.startswith(f"{generation}."), forged
        status, last, answer = await stream(fort, "channel=open:x", cursor, other)
        assert (status, b"event: gateway.reset" in answer) == (200, True)
        assert last == f"{generation}.0"
        status, _, answer = await stream(fort, "channel=open:x", f"{generation}.0", other)
        assert (status, b"test.event" in answer) == (200, False)


STREAM = b"GET /v1/stream?channel=open:x HTTP/1.1\r\nHost: x\r\n"
SECOND = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
SMUGGLED: dict[str, tuple[bytes, bytes]] = {
    "pipelined": (b"200", STREAM + b"\r\n" + SECOND),
    "pipelined many times": (b"200", STREAM + b"\r\n" + SECOND * 10),
    "in a body": (b"200", STREAM + b"Content-Length: %d\r\n\r\n" % len(SECOND) + SECOND),
    "behind a body": (b"200", STREAM + b"Content-Length: 3\r\n\r\nabc" + SECOND),
    "in chunks": (b"200", STREAM + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(SECOND), SECOND)),
    "behind an upgrade to nothing": (b"200", STREAM + b"Connection: Upgrade\r\nUpgrade: garbage\r\n\r\n" + SECOND),
    "behind an upgrade to HTTP/2": (
        b"200",
        STREAM + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n" + SECOND,
    ),
    "length and chunks": (
        b"400",
        STREAM + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND,
    ),
    "two lengths": (b"400", STREAM + b"Content-Length: 3\r\nContent-Length: 0\r\n\r\nabc" + SECOND),
    "a negative length": (b"400", STREAM + b"Content-Length: -1\r\n\r\n" + SECOND),
    "a length that is none": (b"400", STREAM + b"Content-Length: 0x10\r\n\r\n" + SECOND),
    "an encoding that is none": (b"400", STREAM + b"Transfer-Encoding: xchunked\r\n\r\n" + SECOND),
    "chunked, but not last": (b"400", STREAM + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + SECOND),
    "a folded header": (b"400", STREAM + b"X: a\r\n b: c\r\n\r\n" + SECOND),
    "a space before the colon": (b"400", STREAM + b"Content-Length : 3\r\n\r\nabc" + SECOND),
    "a null byte": (b"400", STREAM + b"X: a\0b\r\n\r\n" + SECOND),
    "a lone line feed": (b"400", STREAM.replace(b"\r\n", b"\n") + b"\n" + SECOND),
    "no version, which is HTTP/0.9": (b"200", b"GET /v1/stream?channel=open:x\r\n\r\n" + SECOND),
    "the preface of HTTP/2": (b"400", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
}


async def test_nothing_is_smuggled_behind_a_stream(fort: Fort) -> None:
    async with fort.besieged():
        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(fort.ask(data, quiet=1.0)) for name, (_, data) in SMUGGLED.items()}
        for name, task in tasks.items():
            answer = task.result()
            assert answer, name
            assert answer.split(b" ", 2)[1] == SMUGGLED[name][0], (name, answer[:200])
            assert answer.count(b"HTTP/1.1 ") == 1, (name, answer)


async def test_floods_cost_the_one_who_sends_them(fort: Fort) -> None:
    ping, empty, command = raw(FIN | PING, b"x" * 125), raw(CONT, b""), frame(b'{"id":9,"ping":{}}')
    floods = [
        (CONNECT, ping * 500),
        (CONNECT, command * 2000),
        (CONNECT, frame(b"{}") * 8000),
        (CONNECT + raw(TEXT, b"{"), empty * 10_000),
        (STREAM + b"\r\n", b"x" * 65536),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", SECOND * 1500),
    ]
    async with fort.besieged(64), asyncio.TaskGroup() as group:
        for greeting, flood in floods:
            for _ in range(2):
                group.create_task(flooded(fort, greeting, flood))


async def flooded(fort: Fort, greeting: bytes, flood: bytes) -> None:
    """Send for a second, and never read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", fort.port, limit=1024)
    del reader
    if not greeting.startswith((b"GET", b"POST")):
        writer.write(b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        writer.write(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        await asyncio.sleep(0.1)
    writer.write(greeting)
    try:
        async with asyncio.timeout(1):
            while True:
                writer.write(flood)
                await writer.drain()
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()


HALF = 2500


async def test_thousands_of_half_open_handshakes_are_let_go_in_time(fort: Fort) -> None:
    """A third says nothing at all, a third begins a request, a third dribbles; a few send half a frame for ever."""
    gone = 0

    async def half_open(number: int) -> None:
        nonlocal gone
        reader, writer = await asyncio.open_connection("127.0.0.1", fort.port)
        try:
            if number % 3:
                writer.write(b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nX: ")
            waiting = asyncio.ensure_future(reader.read())
            while not waiting.done():
                await asyncio.wait([waiting], timeout=1.5)
                if number % 3 == 2:
                    writer.write(b"x")
            gone += 1
        except ConnectionError:
            gone += 1
        finally:
            writer.transport.abort()

    async with fort.besieged(64), asyncio.timeout(60), asyncio.TaskGroup() as group:
        truncated = [group.create_task(fort.closed_with(raw(FIN | TEXT, b"x" * 60_000)[:-1])) for _ in range(20)]
        for start in range(0, HALF, 100):
            batch = [group.create_task(half_open(number)) for number in range(start, start + 100)]
            await asyncio.sleep(0.02)
        await asyncio.wait(batch)
    assert gone == HALF
    assert HubOptions().connect == ServerOptions().head
    assert {task.result() for task in truncated} <= {0, 3502}
