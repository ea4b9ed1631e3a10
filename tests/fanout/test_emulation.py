"""Clients without a WebSocket: commands by requests, replies down one long answer, whichever node they meet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from gateway.fanout.emulated import EmulatedConnection
from gateway.fanout.frames import MAX_MESSAGE
from gateway.fanout.options import HubOptions
from gateway.store.channels import ChannelStore
from tests.fanout.conftest import StartNode
from tests.fanout.support import QUICK, Block, Node, publish, settings_for, token
from tests.support.waiting import LIMIT, eventually

STREAM, SSE = "http_stream", "sse"


class Emulated:
    """Speaks by requests to `other`, listens to `response`."""

    def __init__(self, response: httpx.Response, http: httpx.AsyncClient, other: Node) -> None:
        self.response = response
        self.session = self.node = ""
        self._http, self._other = http, other
        self._lines = response.aiter_lines()
        self._id = 1
        self.seen: list[dict[str, Any]] = []

    async def next(self, limit: float = LIMIT) -> dict[str, Any]:
        async with asyncio.timeout(limit):
            async for line in self._lines:
                if line:
                    message: dict[str, Any] = json.loads(line.removeprefix("data: "))
                    self.seen.append(message)
                    return message
        raise EOFError

    async def until(self, kind: str) -> Any:
        while kind not in (message := await self.next()):
            pass
        return message[kind]

    async def connected(self) -> dict[str, Any]:
        told: dict[str, Any] = await self.until("connect")
        self.session, self.node = told["session"], told["node"]
        return told

    async def post(self, *commands: dict[str, Any], **changes: str) -> httpx.Response:
        data = "\n".join(json.dumps(command) for command in commands)
        body = {"session": self.session, "node": self.node, "data": data, **changes}
        return await self._http.post(f"http://127.0.0.1:{self._other.port}/emulation", json=body)

    async def ask(self, **command: Any) -> dict[str, Any]:
        self._id += 1
        number = self._id
        answer = await self.post({"id": number, **command})
        assert answer.status_code == 204, answer.text
        while (message := await self.next()).get("id") != number:
            pass
        return message

    async def pubs(self, count: int) -> list[Any]:
        return [(await self.until("push"))["pub"]["data"] for _ in range(count)]


@asynccontextmanager
async def emulated(
    kind: str, node: Node, other: Node | None = None, *, headers: dict[str, str] | None = None, **connect: Any
) -> AsyncIterator[Emulated]:
    command = json.dumps({"id": 1, "connect": connect})
    base = f"http://127.0.0.1:{node.port}/connection/{kind}"
    async with httpx.AsyncClient(timeout=10) as http:
        if kind == STREAM:
            sent = {"Content-Type": "application/json", **(headers or {})}
            opening = http.stream("POST", base, content=command, headers=sent)
        else:
            opening = http.stream("GET", base, params={"cf_connect": command}, headers=headers)
        async with opening as response:
            yield Emulated(response, http, other or node)


@pytest.mark.parametrize("kind", [STREAM, SSE])
@pytest.mark.parametrize("nodes", [1, 2])
async def test_commands_find_their_session_on_whichever_node(
    start: StartNode, channels: ChannelStore, kind: str, nodes: int
) -> None:
    first = await start()
    second = first if nodes == 1 else await start()
    async with emulated(kind, first, second) as client:
        told = await client.connected()
        assert told["ping"] == 25
        assert "pong" not in told
        assert len(told["session"]) >= 22  # 128 bits in base64 would be 22 characters
        assert told["node"] == first.hub.node
        assert "subscribe" in await client.ask(subscribe={"channel": "open:a"})
        for number in range(5):
            await publish(channels, "open:a", data=number)
        assert [data["data"] for data in await client.pubs(5)] == list(range(5))
        await client.ask(publish={"channel": "open:a", "data": {"text": "grüße\n"}})
        said = [message["push"]["pub"]["data"] for message in client.seen if "push" in message]
        assert said[5:] == [{"text": "grüße\n"}] or await client.pubs(1) == [{"text": "grüße\n"}]
        expected = "application/x-ndjson" if kind == STREAM else "text/event-stream; charset=utf-8"
        assert client.response.headers["content-type"] == expected
    await eventually(lambda: not first.hub.connections)


@pytest.mark.parametrize("kind", [STREAM, SSE])
async def test_commands_of_one_request_are_handled_in_order(start: StartNode, kind: str) -> None:
    node = await start()
    async with emulated(kind, node) as client:
        await client.connected()
        posted = [{"id": 2, "subscribe": {"channel": "open:a"}}]
        posted += [{"id": number, "publish": {"channel": "open:a", "data": number}} for number in range(3, 60)]
        assert (await client.post(*posted)).status_code == 204
        while client.seen[-1].get("id") != 59 or sum("push" in message for message in client.seen) < 57:
            await client.next()
        assert [message["push"]["pub"]["data"] for message in client.seen if "push" in message] == list(range(3, 60))
        assert [message["id"] for message in client.seen if "id" in message] == list(range(1, 60))


async def test_a_session_or_a_node_that_is_gone_is_told(start: StartNode) -> None:
    first, second = await start(), await start()
    async with emulated(STREAM, first, second) as client:
        await client.connected()
        ping = {"id": 9, "ping": {}}
        assert (await client.post(ping, node="f" * 16)).status_code == 404
        assert (await client.post(ping, node="no such node")).status_code == 404
        assert (await client.post(ping, session="x" * 32)).status_code == 204  # its stream has ended, wherever it was
        assert (await client.post(ping, session="x" * 32, node=second.hub.node)).status_code == 204
        assert (await client.post(ping, session="not one\n")).status_code == 404
        assert (await client.post({"id": 9, "send": "x" * MAX_MESSAGE})).status_code == 413
        assert (await client.ask(ping={})).get("ping") == {}
        assert all(message.get("id") != 9 for message in client.seen)


@pytest.mark.parametrize("kind", [STREAM, SSE])
async def test_a_close_is_a_push_that_says_whether_to_come_back(start: StartNode, redis_url: str, kind: str) -> None:
    node = await start(settings=settings_for(redis_url, anonymous=False))
    async with emulated(kind, node, token="forged") as refused:
        assert (await refused.until("push"))["disconnect"] == {"code": 3500, "reason": "invalid token"}
        with pytest.raises(EOFError):
            await refused.next()
    async with emulated(kind, node, token=token(ttl=-1)) as expired:
        assert (await expired.until("error"))["code"] == 109
    async with emulated(kind, node, token=token()) as client:
        await client.connected()
        await node.hub.drain()
        assert (await client.until("push"))["disconnect"]["code"] == 3001
        with pytest.raises(EOFError):
            await client.next()
    async with emulated(kind, node, token=token()) as late:
        assert (await late.until("push"))["disconnect"]["code"] == 3001


async def test_pings_go_out_and_need_no_answer(start: StartNode) -> None:
    node = await start(options=HubOptions(connect=0.2, ping=0.2))
    async with emulated(STREAM, node) as client:
        await client.connected()
        assert [await client.next() for _ in range(4)] == [{}] * 4


async def test_who_never_connects_is_turned_away(start: StartNode) -> None:
    node = await start()
    async with httpx.AsyncClient() as http:
        url = f"http://127.0.0.1:{node.port}/connection/http_stream"
        json_type = {"Content-Type": "application/json"}
        for body in ("", "nonsense", '{"id":1,"ping":{}}'):
            answer = await http.post(url, content=body, headers=json_type)
            assert json.loads(answer.text)["push"]["disconnect"]["code"] == 3501
        assert (await http.post(url, content="{}")).status_code == 415
        assert (await http.post(url, content=" " * (MAX_MESSAGE + 1), headers=json_type)).status_code == 413
        assert (await http.get(f"http://127.0.0.1:{node.port}/connection/sse")).status_code == 422


async def test_a_client_that_sends_faster_than_it_is_served_is_closed(
    start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await start(options=HubOptions(backlog=2, farewell=1))
    async with emulated(STREAM, node) as client:
        await client.connected()
        never = asyncio.Event()

        async def hang(*_: object, **__: object) -> None:
            await never.wait()

        monkeypatch.setattr(node.hub.channels, "history", hang)
        for number in range(2, 7):
            await client.post({"id": number, "history": {"channel": "open:a", "limit": 1}})
        assert (await client.until("push"))["disconnect"]["code"] == 3013
        never.set()


async def test_the_bytes_that_wait_for_a_session_are_bounded(start: StartNode) -> None:
    block = Block()
    node = await start(calls={"test.block": block})
    async with emulated(STREAM, node) as client:
        await client.connected()
        await client.post({"id": 2, "rpc": {"method": "test.block"}})
        await block.called.wait()
        large = {"publish": {"channel": "open:a", "data": "x" * (MAX_MESSAGE * 2 // 3)}}
        (connection,) = node.hub.connections
        assert isinstance(connection, EmulatedConnection)
        await client.post({"id": 3, **large})
        assert not connection.closing, "one waits, whatever its size"
        await client.post({"id": 4, **large})
        assert (await client.until("push"))["disconnect"]["code"] == 3013
        assert not connection.talking().inbox
        block.release.set()


async def test_commands_wait_while_the_client_does_not_read_its_answers(start: StartNode) -> None:
    node = await start()
    async with emulated(STREAM, node) as client:
        await client.connected()
        (connection,) = node.hub.connections
        connection.pause_writing()
        await client.post({"id": 2, "ping": {}})
        assert isinstance(connection, EmulatedConnection)
        await eventually(lambda: not connection.talking().running)
        assert len(connection.talking().backlog) == 1
        connection.resume_writing()
        assert (await client.next())["id"] == 2


@pytest.mark.parametrize("kind", [STREAM, SSE])
async def test_origins(start: StartNode, redis_url: str, kind: str) -> None:
    node = await start(settings=settings_for(redis_url, allowed_origins=("https://app.example",)))
    own = f"http://127.0.0.1:{node.port}"
    for origin, status in [("https://evil.example", 403), ("https://app.example", 200), (own, 200)]:
        async with emulated(kind, node, headers={"Origin": origin}) as client:
            assert client.response.status_code == status
    async with httpx.AsyncClient() as http:
        body = {"session": "s", "node": node.hub.node, "data": "{}"}
        refused = await http.post(f"{own}/emulation", json=body, headers={"Origin": "https://evil.example"})
        assert refused.status_code == 403


async def test_recovery_over_emulation_on_another_node(start: StartNode, channels: ChannelStore) -> None:
    first, second = await start(), await start(options=QUICK)
    async with emulated(STREAM, first, second) as client:
        await client.connected()
        joined = (await client.ask(subscribe={"channel": "open:a", "recoverable": True}))["subscribe"]
    for number in range(10):
        await publish(channels, "open:a", data=number)
    async with emulated(SSE, second, first) as client:
        await client.connected()
        asked = {"channel": "open:a", "recover": True, "epoch": joined["epoch"], "offset": joined.get("offset", 0)}
        again = (await client.ask(subscribe=asked))["subscribe"]
        assert again["recovered"]
        assert [pub["data"]["data"] for pub in again["publications"]] == list(range(10))
