from __future__ import annotations

import asyncio
from typing import Any, NamedTuple
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fanout.overload import turn_away
from gateway.server import admission
from gateway.server.admission import Admission, Pace, TurnAway, unavailable
from gateway.server.http import HttpProtocol
from gateway.settings import Settings
from tests.fanout.conftest import StartNode
from tests.fanout.support import Node, ws
from tests.support.waiting import LIMIT, eventually

APP = "https://app.example"
NAMED, EVERYONE = b"access-control-allow-origin: https://app.example", b"access-control-allow-origin: *"
VARY, COOKIES = b"vary: Origin", b"access-control-allow-credentials: true"


class Guest:
    def __init__(self, log: list[Guest]) -> None:
        self.log = log
        self.gone = False
        self.refused = b""

    def admit(self) -> None:
        self.log.append(self)

    def refuse(self, turn_away: TurnAway, retry: float) -> None:
        self.refused = turn_away(b"GET /", retry)


@given(st.lists(st.floats(0, 1)))
def test_the_pace_stays_within_its_bounds(turns: list[float]) -> None:
    pace = Pace()
    for seconds in turns:
        before = pace.size
        pace.took(seconds)
        assert 1 <= pace.size <= 64
        assert seconds < 0.02 or pace.size <= max(1, before // 2)
        assert seconds > 0.01 or pace.size >= before


async def test_a_few_at_once_do_not_wait() -> None:
    log: list[Guest] = []
    queue = Admission()
    for _ in range(10):
        queue.enter(Guest(log), b"GET /")
    assert len(log) == 10


async def test_a_storm_comes_in_by_turns_and_in_order() -> None:
    log: list[Guest] = []
    queue = Admission()
    guests = [Guest(log) for _ in range(500)]
    for guest in guests:
        queue.enter(guest, b"GET /")
    at_once = len(log)
    assert at_once < 32
    guests[300].gone = True
    turns = 0
    while len(queue):
        before = len(log)
        await asyncio.sleep(0)
        turns += 1
        assert len(log) - before <= 64
    assert log == [guest for guest in guests if guest is not guests[300]]
    assert turns >= 500 // 64


async def test_a_fault_of_one_connection_keeps_nobody_else_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Guest] = []
    queue = Admission()
    guests = [Guest(log) for _ in range(50)]
    monkeypatch.setattr(guests[30], "admit", Mock(side_effect=RuntimeError))
    for guest in guests:
        queue.enter(guest, b"GET /")
    await eventually(lambda: not len(queue))
    assert guests[30].refused
    assert log == [guest for guest in guests if guest is not guests[30]]


async def test_probes_of_our_health_do_not_wait() -> None:
    log: list[Guest] = []
    queue = Admission()
    for _ in range(100):
        queue.enter(Guest([]), b"GET /v1/jobs")
    queue.enter(Guest(log), b"GET /readyz HTTP/1.1")
    assert len(log) == 1


async def test_a_full_queue_and_a_long_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_WAITING", 3)
    queue = Admission(turn_away(Settings()))
    guests = [Guest([]) for _ in range(30)]
    for guest in guests:
        queue.enter(guest, b"GET /")
    assert len(queue) == 3
    full = [guest for guest in guests if guest.refused]
    assert len(full) == queue.refused == 30 - 3 - 16
    assert full[0].refused.startswith(b"HTTP/1.1 503 ")
    monkeypatch.setattr(admission, "MAX_WAIT", 0.0)
    await asyncio.sleep(0)
    assert (len(queue), queue.refused) == (0, 30 - 16)


def test_a_stream_is_turned_away_within_a_200() -> None:
    answer = turn_away(Settings())(b"GET /v1/stream?channel=a HTTP/1.1\r\n", 2.5)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream")
    assert answer.endswith(b'retry: 2500\nevent: gateway.bye\ndata: {"reason":"overload"}\n\n')
    other = turn_away(Settings())(b"GET /connection/websocket HTTP/1.1\r\n", 2.5)
    assert other == unavailable(b"", 2.5)
    head, _, body = other.partition(b"\r\n\r\n")
    assert b"retry-after: 2" in head
    assert b"content-length: %d\r\n" % len(body) in head


@pytest.mark.parametrize("line", [b"GET /v1/stream?channel=a", b"GET /v1/jobs"])
@pytest.mark.parametrize(
    ("changes", "head", "allowed"),
    [
        ({}, b"Origin: https://app.example\r\n\r\n", set()),
        ({"allowed_origins": (APP,)}, b"Host: x\r\n\r\nOrigin: https://app.example\r\n", set()),
        ({"allowed_origins": (APP,)}, b"Host: x\r\nX: Origin: https://app.example\r\n\r\n", set()),
        ({"allowed_origins": (APP,)}, b"Origin: https://evil.example\r\n\r\n", set()),
        ({"allowed_origins": (APP,)}, b"Host: x\r\noRIGIN:https://app.example \r\n\r\n", {NAMED, VARY}),
        ({"allowed_origins": (APP,)}, b"Origin: https://app.example\r\n\r\n", {NAMED, VARY}),
        ({"allowed_origins": (APP,), "cookie": "s"}, b"Origin: https://app.example\r\n\r\n", {NAMED, VARY, COOKIES}),
        ({"allowed_origins": ("*",), "cookie": "s"}, b"Origin: https://app.example\r\n\r\n", {EVERYONE}),
    ],
)
def test_who_is_turned_away_may_read_it_in_an_allowed_page(
    line: bytes, changes: dict[str, Any], head: bytes, allowed: set[bytes]
) -> None:
    answer = turn_away(Settings(**changes))(line + b" HTTP/1.1\r\n" + head, 1.0)
    lines = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert {each for each in lines if each.startswith((b"access-control", b"vary"))} == allowed


async def held_back(start: StartNode, monkeypatch: pytest.MonkeyPatch, body: bytes) -> Held:
    """Have a node that leaves a connection waiting on which a request with this body has come."""
    node = await start()
    waiting: list[HttpProtocol] = []
    monkeypatch.setattr(Admission, "enter", lambda _self, newcomer, _first: waiting.append(newcomer))
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(b"POST /v1/events HTTP/1.1\r\nHost: x\r\n")
    await eventually(lambda: waiting)
    writer.write(b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    monkeypatch.undo()
    return Held(node, waiting[0], reader, writer)


class Held(NamedTuple):
    node: Node
    newcomer: HttpProtocol
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@pytest.mark.parametrize("admitted", [True, False])
async def test_a_connection_that_waits_is_held_and_not_read_without_end(
    start: StartNode,
    monkeypatch: pytest.MonkeyPatch,
    admitted: bool,  # noqa: FBT001 - parametrized
) -> None:
    held = await held_back(start, monkeypatch, b" " * 9_000_000)
    await eventually(lambda: held.newcomer.flow.read_paused)
    assert len(held.newcomer._held or b"") < 1_000_000
    if admitted:
        held.newcomer.admit()
    else:
        held.newcomer.refuse(unavailable, 1.0)
    answer = await asyncio.wait_for(held.reader.readline(), LIMIT)
    assert answer.startswith(b"HTTP/1.1 401 " if admitted else b"HTTP/1.1 503 ")
    held.writer.transport.abort()


async def test_who_goes_while_waiting_is_forgotten(start: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    held = await held_back(start, monkeypatch, b"{}")
    held.writer.transport.abort()
    await eventually(lambda: held.newcomer.gone)
    held.newcomer.admit()
    async with ws(held.node) as client:
        assert "ping" in await client.ask(ping={})
