"""What a client may send, and how fast: the limits hold, and the others do not notice."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from gateway.auth.principals import Principal
from gateway.errors import StoreUnavailable
from gateway.fanout import limits
from gateway.fanout.frames import MAX_MESSAGE
from gateway.fanout.limits import Verdict
from gateway.fanout.options import HubOptions
from gateway.fanout.websocket import WebSocketConnection
from gateway.settings import Settings
from gateway.store.channels import ChannelStore
from tests.fanout.conftest import StartNode
from tests.fanout.support import Block, Node, WsClient, publish, token, ws
from tests.support.waiting import eventually


@given(st.integers(1, 50), st.floats(1, 100), st.lists(st.floats(0, 0.5), max_size=200))
def test_no_client_gets_more_than_its_burst_and_its_rate(burst: int, rate: float, pauses: list[float]) -> None:
    paid_until, now, fine = 0.0, 1000.0, 0
    for pause in pauses:
        now += pause
        paid_until, verdict = limits.spend(paid_until, now, rate=rate, burst=burst)
        fine += verdict is Verdict.FINE
    assert fine <= burst + rate * (now - 1000.0) + 1
    assert fine >= min(len(pauses), burst - 1)


def test_who_goes_on_although_refused_is_flooding_and_who_waits_is_fine_again() -> None:
    paid_until, verdicts = 0.0, []
    for _ in range(25):
        paid_until, verdict = limits.spend(paid_until, 100.0, rate=10, burst=10)
        verdicts.append(verdict)
    assert verdicts[8] is Verdict.FINE
    assert verdicts[15] is Verdict.OVER
    assert verdicts[24] is Verdict.FLOOD
    assert limits.spend(paid_until, 110.0, rate=10, burst=10)[1] is Verdict.FINE


def commands(first: int, last: int, **command: object) -> str:
    return "\n".join(json.dumps({"id": number, **command}) for number in range(first, last))


async def ended(client: WsClient) -> tuple[list[dict[str, Any]], int]:
    """Read to the end: all replies, and the close code."""
    replies: list[dict[str, Any]] = []
    with pytest.raises(ConnectionClosed) as caught:
        await collect(client, replies)
    assert caught.value.rcvd is not None
    return replies, caught.value.rcvd.code


async def collect(client: WsClient, replies: list[dict[str, Any]]) -> None:
    while True:
        replies.append(await client.next())


async def test_a_client_a_bit_over_its_rate_is_told_to_slow_down(start: StartNode) -> None:
    node = await start(options=HubOptions(rate=20, burst=10))
    async with ws(node) as client:
        await client.socket.send(commands(100, 115, ping={}))
        replies = [await client.next() for _ in range(15)]
        refused = [reply["error"] for reply in replies if "error" in reply]
        assert 0 < len(refused) <= 6
        assert refused[0] == {"code": 111, "message": "too many requests", "temporary": True}
        assert (await client.ask(unsubscribe={"channel": "open:a"}))["unsubscribe"] == {}
        await asyncio.sleep(0.6)  # twelve more commands
        assert "ping" in await client.ask(ping={})
    assert node.hub.counters.refused >= len(refused)


async def test_a_client_far_over_its_rate_is_closed(start: StartNode) -> None:
    node = await start(options=HubOptions(rate=10, burst=10))
    async with ws(node) as client:
        await client.socket.send(commands(100, 200, ping={}))
        replies, code = await ended(client)
        assert code == 3013
        assert len(replies) < 25


def tiny(opcode: Opcode, payload: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin).serialize(mask=True)


@pytest.mark.parametrize(
    "flood",
    [
        [tiny(Opcode.TEXT, b"{}")] * 20_000,
        [tiny(Opcode.TEXT, b"{}\n" * 20_000)],
        [tiny(Opcode.PING)] * 20_000,
        [tiny(Opcode.TEXT, fin=False), *[tiny(Opcode.CONT, fin=False)] * 20_000],
        [tiny(Opcode.TEXT, b'{"send":{}}\n' * 5000)],
        [tiny(Opcode.TEXT, b'{"id":7}' * 8000)],
    ],
    ids=["pongs", "pongs in one message", "pings", "empty fragments", "sends", "unknown commands"],
)
async def test_no_kind_of_flood_holds_the_others_up(
    start: StartNode, channels: ChannelStore, flood: list[bytes]
) -> None:
    node = await start(options=HubOptions(burst=500))
    async with ws(node) as other, ws(node) as client:
        await other.subscribe("open:a")
        client.socket.transport.write(b"".join(flood))
        for number in range(3):
            await publish(channels, "open:a", data=number)
            await other.pubs(1, 5)
        await eventually(lambda: node.hub.counters.closed.get("3013"))
        with pytest.raises(ConnectionClosed):
            await collect(client, [])
    await eventually(lambda: not node.hub.connections)


async def test_a_client_whose_commands_are_all_refused_is_closed(start: StartNode) -> None:
    node = await start(options=HubOptions(errors=20))
    async with ws(node) as client:
        for number in range(1, 4):
            await client.socket.send(commands(100 * number, 100 * number + 19, publish={"channel": "secret:a"}))
            await client.ask(ping={})  # one that succeeds, and the count begins again
        await client.socket.send(commands(500, 530, publish={"channel": "secret:a", "data": 1}))
        replies, code = await ended(client)
        assert code == 3509
        assert [reply["error"]["code"] for reply in replies if reply["id"] >= 500] == [103] * 20


async def test_a_client_is_not_driven_away_by_faults_of_ours(start: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node = await start(options=HubOptions(errors=20))

    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable

    async with ws(node) as client:
        with monkeypatch.context() as outage:
            outage.setattr(node.channels, "publish", away)
            await client.socket.send(commands(100, 150, publish={"channel": "open:a", "data": 1}))
            replies = [await client.next() for _ in range(50)]
            assert {(reply["error"]["code"], reply["error"]["temporary"]) for reply in replies} == {(100, True)}
        assert (await client.ask(publish={"channel": "open:a", "data": 1}))["publish"] == {}


async def test_more_server_side_subscriptions_than_a_connection_may_have(start: StartNode) -> None:
    node = await start(options=HubOptions(subscriptions=2))
    async with ws(node, hello=False) as client:
        await client.send(connect={"token": token(channels=("open:a", "open:b", "open:c"))})
        assert (await ended(client))[1] == 3505
    async with ws(node, hello=False) as client:
        assert len((await client.connect(token=token(channels=("open:a", "open:b"))))["connect"]["subs"]) == 2


async def test_subscribes_that_run_together_stay_within_the_limit(start: StartNode) -> None:
    node = await start(options=HubOptions(subscriptions=10))
    async with ws(node) as client:
        lines = [{"id": number, "subscribe": {"channel": f"open:{number}"}} for number in range(10, 60)]
        await client.socket.send("\n".join(map(json.dumps, lines)))
        replies = [await client.next() for _ in lines]
        assert sum("subscribe" in reply for reply in replies) == 10
        assert {reply["error"]["code"] for reply in replies if "error" in reply} == {106}


async def answers(client: WsClient, count: int) -> list[dict[str, Any]]:
    return [await client.next() for _ in range(count)]


async def test_a_thousand_subscribes_in_one_frame_hold_nobody_up(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    async with ws(node) as other, ws(node) as client:
        await other.subscribe("open:live")
        lines = [{"id": number, "subscribe": {"channel": f"open:{number}"}} for number in range(1000, 2000)]
        answered = asyncio.ensure_future(answers(client, len(lines)))
        await client.socket.send("\n".join(map(json.dumps, lines)))
        others = 0
        while not answered.done():
            await publish(channels, "open:live", data=others)
            await other.pubs(1)
            others += 1
        assert others >= 5  # were they held up, one would have waited for all the answers
        replies = await answered
        assert sum("subscribe" in reply for reply in replies) == 512
        assert sorted(reply["id"] for reply in replies) == list(range(1000, 2000))


async def test_a_client_that_does_not_read_its_answers_is_not_worked_for(start: StartNode) -> None:
    async def block(_principal: Principal, _data: bytes) -> bytes:
        mine.pause_writing()  # as the transport does when nobody reads
        return b"1"

    node = await start(calls={"test.block": block})
    async with ws(node) as client:
        for number in range(12):
            await client.ask(publish={"channel": "open:large", "data": str(number % 10) * 20_000})
        mine = only_session(node)
        many = commands(101, 300, history={"channel": "open:large", "limit": -1})
        await client.socket.send(commands(100, 101, rpc={"method": "test.block"}) + "\n" + many)
        assert (await client.next())["id"] == 100
        await eventually(lambda: not mine.talking().running)
        assert len(mine.talking().backlog) == 199
        mine.resume_writing()
        for number in range(101, 300):
            assert (await client.next())["id"] == number
        await eventually(lambda: not mine.talking().running)


async def test_messages_that_wait_are_bounded_in_bytes(start: StartNode) -> None:
    block = Block()
    node = await start(calls={"test.block": block})
    async with ws(node) as client:
        mine = only_session(node)
        await client.send(rpc={"method": "test.block"})
        filler = json.dumps({"id": 9, "publish": {"channel": "open:a", "data": "x" * 60_000}})
        sending = asyncio.ensure_future(flood(client, filler))
        await eventually(lambda: mine._held)
        assert sum(map(len, mine.talking().inbox)) < 2 * MAX_MESSAGE
        sending.cancel()
        block.release.set()
        client.socket.transport.abort()  # half a message is on its way


def only_session(node: Node) -> WebSocketConnection:
    (mine,) = node.hub.connections
    assert isinstance(mine, WebSocketConnection)
    return mine


async def flood(client: WsClient, message: str) -> None:
    while True:
        await client.socket.send(message)


@pytest.mark.parametrize("pieces", [1, 2, 100])
async def test_a_message_that_is_too_big_is_closed_and_the_others_live(
    start: StartNode, channels: ChannelStore, pieces: int
) -> None:
    node: Node = await start()
    async with ws(node) as other, ws(node) as client:
        await other.subscribe("open:a")
        part = b"x" * (MAX_MESSAGE // pieces + 1)
        for index in range(pieces):
            frame = Frame(Opcode.CONT if index else Opcode.TEXT, part, fin=index == pieces - 1)
            client.socket.transport.write(frame.serialize(mask=True))
        assert (await ended(client))[1] == 1009
        await publish(channels, "open:a", data=1)
        assert (await other.pubs(1))[0]["offset"] == 1
    await eventually(lambda: not node.hub.connections)


async def test_a_client_with_every_subscription_it_may_have_comes_back_in_one_message(start: StartNode) -> None:
    node = await start()
    async with ws(node, hello=False) as client:
        await client.connect(token=token("ann"))
        lines = []
        for number in range(1000, 1512):
            channel = f"secret:a-channel-with-an-ordinary-name-{number}"
            asked = {"channel": channel, "token": token("ann", channel=channel), "recover": True, "offset": 0}
            lines.append(json.dumps({"id": number, "subscribe": {**asked, "epoch": "x" * 16}}))
        message = "\n".join(lines)
        assert len(message) > 2 * 65536
        await client.socket.send(message)
        replies = [await client.next() for _ in lines]
        assert all("subscribe" in reply for reply in replies)


async def test_a_publication_that_is_too_big_is_refused_and_the_client_stays(start: StartNode) -> None:
    node = await start()
    async with ws(node) as client:
        large = await client.ask(publish={"channel": "open:a", "data": "x" * 300_000})
        assert large["error"]["code"] == 106
        assert "publish" in await client.ask(publish={"channel": "open:a", "data": "x" * 200_000})


async def test_data_of_connect_and_subscribe_is_allowed(start: StartNode) -> None:
    node = await start()
    async with ws(node, hello=False) as client:
        assert "connect" in await client.connect(data={"a": [1, None]}, headers={"x": "y"}, flag=1)
        assert "subscribe" in await client.subscribe("open:a", data="anything", delta="fossil")


async def test_publishing_and_calling_count_as_requests_of_the_tenant(start: StartNode, settings: Settings) -> None:
    async def call(_principal: Principal, _data: bytes) -> bytes:
        return b"1"

    few = msgspec.structs.replace(settings, rate_limit=0.001, rate_burst=2)
    node = await start(settings=few, calls={"test.call": call})
    async with ws(node) as client:
        assert "publish" in await client.ask(publish={"channel": "open:a", "data": 1})
        assert "rpc" in await client.ask(rpc={"method": "test.call"})
        for command in ({"publish": {"channel": "open:a", "data": 2}}, {"rpc": {"method": "test.call"}}):
            error = (await client.ask(**command))["error"]
            assert (error["code"], error["temporary"]) == (111, True)
        assert "subscribe" in await client.subscribe("open:a")  # what costs nobody else anything is not counted
