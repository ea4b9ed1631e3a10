from __future__ import annotations

import asyncio
import json

import pytest

from gateway.auth.principals import Principal
from gateway.fanout.options import HubOptions
from gateway.store.channels import ChannelStore
from tests.fanout.conftest import StartNode
from tests.fanout.support import Node, publish, settings_for, sse, token
from tests.support.waiting import LIMIT, eventually


async def test_a_stream_opens_with_an_id_and_brings_events(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    async with sse(node.port, "channel=open:a") as client:
        assert client.status == 200
        assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert client.headers["cache-control"] == "no-cache, no-transform"
        assert client.headers["connection"] == "close"
        assert "transfer-encoding" not in client.headers
        opening = await client.block()
        assert (set(opening), opening["event"]) == ({"retry", "id", "event", "data"}, "gateway.open")
        await publish(channels, "open:a", data={"n": 1})
        event = await client.event()
        assert event["event"] == "test.event"
        assert json.loads(event["data"])["data"] == {"n": 1}
        assert event["id"] != opening["id"]


async def test_a_stream_resumes_on_another_node(start: StartNode, channels: ChannelStore) -> None:
    first, second = await start(), await start()
    async with sse(first.port, "channel=open:a") as client:
        await client.block()
        await publish(channels, "open:a", data=0)
        assert await client.datas(1) == [0]
    for number in range(1, 300):
        await publish(channels, "open:a", data=number)
    for query in (f"channel=open:a&last_event_id={client.last_id}", f"channel=open:a&lastEventId={client.last_id}"):
        async with sse(second.port, query) as back:
            assert await back.datas(299) == list(range(1, 300))
    async with sse(second.port, "channel=open:a", f"Last-Event-ID: {client.last_id}") as back:
        got = await back.datas(250)
        await publish(channels, "open:a", data=300)
        assert got + await back.datas(50) == list(range(1, 301))


async def test_an_event_on_several_channels_comes_once_and_ids_ascend(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    names = [f"open:{n}" for n in range(5)]
    query = "&".join(f"channel={name}" for name in names)
    async with sse(node.port, query) as client:
        await client.block()
        for number in range(60):
            await publish(channels, *names[number % 5 :], data=number)
        ids, datas = [], []
        for _ in range(60):
            event = await client.event()
            ids.append(int(event["id"].split(".")[1], 36))
            datas.append(json.loads(event["data"])["data"])
        assert datas == list(range(60))
        assert ids == sorted(set(ids))
    async with sse(node.port, query, f"Last-Event-ID: {event['id'].split('.')[0]}.0") as again:
        assert await again.datas(60) == list(range(60))


@pytest.mark.parametrize("cursor", ["nonsense", "zzzzzz.1", "{generation}.zzzzz"])
async def test_what_cannot_be_proven_is_a_reset(start: StartNode, channels: ChannelStore, cursor: str) -> None:
    node = await start()
    generation, _ = await channels.head("default")
    query = "channel=open:a&channel=job:mine"
    headers = (f"Last-Event-ID: {cursor.format(generation=generation)}", f"Authorization: Bearer {token()}")
    async with sse(node.port, query, *headers) as client:
        reset = await client.event()
        assert reset["event"] == "gateway.reset"
        assert json.loads(reset["data"])["reason"] in {"cursor", "history"}
        state = await client.event()
        assert (state["event"], state["id"]) == ("job.succeeded", reset["id"])
        await publish(channels, "open:a", data="after")
        assert await client.datas(1) == ["after"]


async def test_trimmed_history_is_a_reset(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    async with sse(node.port, "channel=short:a") as client:
        opening = await client.block()
    await eventually(lambda: not node.hub.topics)
    for number in range(20):
        await publish(channels, "short:a", data=number)
    async with sse(node.port, "channel=short:a", f"Last-Event-ID: {opening['id']}") as client:
        assert (await client.event())["event"] == "gateway.reset"


async def test_names_and_filters(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    async with (
        sse(node.port, "channel=open:a&event=message") as unnamed,
        sse(node.port, "channel=open:a&types=a.one,a.two") as filtered,
    ):
        await unnamed.block()
        await filtered.block()
        for type_ in ("a.one", "a.three", "a.two"):
            await publish(channels, "open:a", data=type_, type_=type_)
        assert await filtered.datas(2) == ["a.one", "a.two"]
        events = [await unnamed.event() for _ in range(3)]
        assert all("event" not in event for event in events)


async def test_comments_keep_a_stream_open_and_move_a_filtered_one_on(start: StartNode, channels: ChannelStore) -> None:
    node = await start(options=HubOptions(comment=0.3))
    async with sse(node.port, "channel=open:a&types=a.none") as filtered, sse(node.port, "channel=open:a") as plain:
        before = (await filtered.block())["id"]
        await plain.block()
        await publish(channels, "open:a")
        await plain.event()
        assert await plain.block() == {}
        while (await filtered.block()).get("id") == before:
            pass
        assert filtered.last_id == plain.last_id


async def test_an_expired_right_ends_the_stream(start: StartNode) -> None:
    node = await start()
    async with sse(node.port, f"channel=secret:a&token={token(channels=(), caps=[], ttl=1)}") as client:
        assert client.status == 403
    mine = token("ann", ttl=1)
    async with sse(node.port, f"channel=user:ann&token={mine}") as client:
        bye = await client.event()
        assert bye["event"] == "gateway.bye"
        assert json.loads(bye["data"]) == {"reason": "expired"}
        assert await client.reader.read() == b""


async def test_tickets_open_once_and_reconnect_with_their_own_cursor(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    principal = Principal(tenant="default", subject="ann", kind="token")
    ticket = (await node.app.state.tickets.issue(principal)).ticket
    query = f"channel=user:ann&ticket={ticket}"
    async with sse(node.port, query) as client:
        assert client.status == 200
        await client.block()
        await publish(channels, "user:ann", data=1)
        assert await client.datas(1) == [1]
        assert client.last_id.count(".") == 2
    async with sse(node.port, query) as client_without:
        assert client_without.status == 401
    forged = client.last_id.rpartition(".")[0] + ".AAAAAAAAAAAAAAAA"
    async with sse(node.port, query, f"Last-Event-ID: {forged}") as client_forged:
        assert client_forged.status == 401
    await publish(channels, "user:ann", data=2)
    async with sse(node.port, query, f"Last-Event-ID: {client.last_id}") as back:
        assert back.status == 200
        assert await back.datas(1) == [2]


async def test_refusals(start: StartNode, redis_url: str) -> None:
    node = await start(settings=settings_for(redis_url, anonymous=False))
    mine = f"token={token()}"
    for query, status in [
        ("channel=open:a", 401),
        (f"channel=secret:a&{mine}", 403),
        (mine, 422),
        (f"channel=no%20spaces&{mine}", 422),
        ("&".join(["channel=open:a"] * 65) + f"&{mine}", 422),
        (f"channel=open:a&event=loud&{mine}", 422),
        ("channel=open:a&token=root-key-for-tests", 401),
        (f"channel=open:a&token={token(ttl=-1)}", 401),
        ("channel=open:a&ticket=unknown", 401),
    ]:
        async with sse(node.port, query) as client:
            assert (client.status, client.headers["content-type"]) == (status, "application/problem+json"), query


async def test_head_answers_headers_only(start: StartNode) -> None:
    node = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(b"HEAD /v1/stream?channel=open:a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), LIMIT)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"text/event-stream" in answer
    assert answer.endswith(b"\r\n\r\n")
    assert not node.hub.connections


async def test_what_is_temporary_is_said_inside_a_200(start: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node: Node = await start(options=HubOptions(attach=0.2))
    monkeypatch.setattr(node.hub.feed, "subscribe", len)  # and nothing is confirmed any more
    async with sse(node.port, "channel=open:a") as client:
        assert client.status == 200
        bye = await client.event()
        assert (bye["event"], json.loads(bye["data"])) == ("gateway.bye", {"reason": "unavailable"})
        assert int(bye["retry"]) >= 1000
