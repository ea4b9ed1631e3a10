from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from gateway.errors import TooManyConnections
from gateway.fanout.seats import Seat, Seats, address_of
from tests.fanout.conftest import StartNode
from tests.fanout.support import settings_for, sse, token, ws
from tests.fanout.test_emulation import emulated
from tests.support.waiting import LIMIT, eventually


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
        ("2001:db8:1:3::", "2001:db8:1:3::"),
        ("fe80::1%eth0", "fe80::"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("[2001:db8:1:2::7]:4711", "2001:db8:1:2::"),
        ("[2001:db8:1:2::7]", "2001:db8:1:2::"),
        ("[]:1", ""),
        ("127.0.0.1:80", ""),
        ("127.0.0.1", ""),
        ("127.9.9.9", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        (None, ""),
        ("", ""),
        ("testclient", ""),
    ],
)
def test_what_an_address_is_counted_under(host: str | None, counted: str) -> None:
    assert address_of(host) == counted


HOSTS = st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "127.0.0.1"])
TENANTS = st.sampled_from(["", "one", "two"])


@given(st.lists(st.one_of(st.tuples(HOSTS, TENANTS), st.integers(0, 30))))
def test_counts_are_what_is_seated_and_never_over_the_bounds(steps: list[tuple[str, str] | int]) -> None:
    seats = Seats(8, 4, 3)
    seated: list[tuple[Seat, str, str]] = []
    for step in steps:
        if isinstance(step, int):
            if step < len(seated):
                seat, _, _ = seated.pop(step)
                seat.leave()
                seat.leave()
        else:
            host, tenant = step
            with contextlib.suppress(TooManyConnections):
                seated.append((seats.seat(host, tenant), address_of(host), tenant))
        hosts = [address for _, address, _ in seated if address]
        tenants = [tenant for _, _, tenant in seated if tenant]
        assert seats.total == len(seated) <= 8
        assert seats.addresses == {name: hosts.count(name) for name in hosts}
        assert seats.tenants == {name: tenants.count(name) for name in tenants}
        assert all(count <= 3 for count in seats.addresses.values())
        assert all(count <= 4 for count in seats.tenants.values())


def test_a_seat_nobody_keeps_is_given_back() -> None:
    seats = Seats(1, 0, 0)
    with seats.seat("192.0.2.1"):
        pass
    with seats.seat("192.0.2.1") as seat:
        seat.kept = True
    assert seats.total == 1
    with pytest.raises(TooManyConnections), seats.seat("192.0.2.1"):
        pass
    seat.leave()
    seat.join("late")
    assert (seats.total, seats.tenants) == (0, {})


async def test_a_process_holds_so_many_connections_whatever_their_kind(start: StartNode, redis_url: str) -> None:
    node = await start(settings=settings_for(redis_url, max_connections=3))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(ws(node))
        await stack.enter_async_context(sse(node.port, "channel=open:a"))
        client = await stack.enter_async_context(emulated("http_stream", node))
        await client.connected()
        async with ws(node, hello=False) as refused:
            with pytest.raises(ConnectionClosed):
                await refused.next()
            assert (refused.socket.close_code, refused.socket.close_reason) == (3013, "too many requests")
        async with sse(node.port, "channel=open:a") as late:
            assert late.status == 200
            bye = await late.event()
            assert (bye["event"], json.loads(bye["data"])) == ("gateway.bye", {"reason": "overload"})
            assert await late.reader.read() == b""
        for kind in ("http_stream", "sse"):
            async with emulated(kind, node) as another:
                assert (await another.until("push"))["disconnect"]["code"] == 3013
        assert len(node.hub.connections) == 3
    await eventually(lambda: not node.hub.connections)
    async with ws(node), ws(node), sse(node.port, "channel=open:a") as again:
        assert (await again.block())["event"] == "gateway.open"


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_slow_body_has_a_seat_and_a_deadline(
    start: StartNode,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    leaves: bool,  # noqa: FBT001 - parametrized
) -> None:
    node = await start(settings=settings_for(redis_url, max_connections=1))
    monkeypatch.setattr("gateway.web.bodies.IN_TIME", 60 if leaves else 1.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(b"POST /connection/http_stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
    writer.write(b"Content-Length: 20\r\n\r\n{")

    async def first() -> str:
        async with sse(node.port, "channel=open:a") as other:
            return (await other.block())["event"]

    async with asyncio.timeout(LIMIT):
        while await first() != "gateway.bye":
            pass
        if not leaves:
            answer = await reader.read()  # and the connection is closed
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"urn:gateway:problem:body-too-slow" in answer
        writer.transport.abort()
        while await first() != "gateway.open":
            pass


async def test_a_tenant_is_counted_once_it_is_known(start: StartNode, redis_url: str) -> None:
    node = await start(settings=settings_for(redis_url, max_connections_per_tenant=2))
    mine = token("ann", tenant="small")
    async with ws(node, hello=False) as first, sse(node.port, f"channel=open:a&token={mine}") as second:
        assert "connect" in await first.connect(token=mine)
        await second.block()
        async with ws(node, hello=False) as third:
            error = (await third.connect(token=mine))["error"]
            assert (error["code"], error["temporary"]) == (111, True)
        async with ws(node, hello=False) as other:
            assert "connect" in await other.connect(token=token("bob", tenant="other"))
        async with sse(node.port, f"channel=open:a&token={mine}") as fourth:
            assert (await fourth.event())["event"] == "gateway.bye"
        async with ws(node, hello=False, additional_headers={"Authorization": f"Bearer {mine}"}) as fifth:
            with pytest.raises(ConnectionClosed):
                await fifth.next()
            assert fifth.socket.close_code == 3013


async def test_an_address_is_counted_as_the_trusted_proxy_tells_it(start: StartNode, redis_url: str) -> None:
    limited = settings_for(redis_url, max_connections_per_address=1, trusted_proxies=("127.0.0.1/32",))
    node = await start(settings=limited)
    async with sse(node.port, "channel=open:a", "X-Forwarded-For: 2001:db8::1") as first:
        await first.block()
        for address, event in [("2001:db8::2", "gateway.bye"), ("2001:db8:0:1::2", "gateway.open")]:
            async with sse(node.port, "channel=open:a", f"X-Forwarded-For: {address}") as other:
                assert (await other.block())["event"] == event
    believes_nobody = await start(settings=settings_for(redis_url, max_connections_per_address=1))
    forged = "X-Forwarded-For: 2001:db8::1"
    async with (
        sse(believes_nobody.port, "channel=open:a", forged) as one,
        sse(believes_nobody.port, "channel=open:a", forged) as two,
    ):
        assert [(await reader.block())["event"] for reader in (one, two)] == ["gateway.open"] * 2
