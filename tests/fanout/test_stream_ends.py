"""Cookies, and streams that are over for good."""

from __future__ import annotations

import datetime as dt
import json
from contextlib import AsyncExitStack
from typing import NoReturn

import pytest
from starlette.datastructures import Headers
from websockets.exceptions import InvalidStatus

from gateway.auth.principals import Principal
from gateway.errors import RateLimited, StoreUnavailable
from gateway.fanout import sse as encoding
from gateway.fanout.options import HubOptions
from gateway.fanout.origins import trusts_cookies
from gateway.store.channels import ChannelStore
from tests.fanout import support
from tests.fanout.conftest import StartNode
from tests.fanout.endings import closed
from tests.fanout.support import Node, publish, settings_for, sse, token, ws
from tests.fanout.test_emulation import emulated
from tests.support.waiting import eventually

OWN = "Origin: http://127.0.0.1"  # as the client's Host
SAME = "Sec-Fetch-Site: same-origin"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([SAME], 200),
        ([OWN], 200),
        (["Origin: https://app.example", "Sec-Fetch-Site: cross-site"], 200),
        (["Origin: https://evil.example", SAME], 403),
        (["Origin: null"], 403),
        (["Sec-Fetch-Site: cross-site"], 403),
        (["Sec-Fetch-Site: same-site"], 403),
        (["Sec-Fetch-Site: none"], 403),
        ([], 403),
    ],
)
async def test_a_cookie_opens_a_stream_only_for_pages_that_are_known(
    start: StartNode, redis_url: str, headers: list[str], status: int
) -> None:
    allowed = ("https://app.example",)
    node = await start(settings=settings_for(redis_url, anonymous=False, cookie="session", allowed_origins=allowed))
    async with sse(node.port, "channel=user:ann", f"Cookie: a=b; session={token()}", *headers) as client:
        assert client.status == status


async def test_every_origin_is_not_every_page_with_a_cookie(start: StartNode, redis_url: str) -> None:
    node = await start(settings=settings_for(redis_url, anonymous=False, cookie="session", allowed_origins=("*",)))
    foreign = ("Origin: https://evil.example", f"Cookie: session={token()}")
    async with sse(node.port, "channel=user:ann", *foreign) as client:
        assert client.status == 403
    async with sse(node.port, f"channel=user:ann&token={token()}", foreign[0]) as client:
        assert client.status == 200


async def test_a_page_that_may_not_use_the_cookie_may_bring_a_token(start: StartNode, redis_url: str) -> None:
    node = await start(settings=settings_for(redis_url, anonymous=False, cookie="session", allowed_origins=("*",)))
    foreign = {"Origin": "https://evil.example", "Cookie": f"session={token('bob')}"}
    async with ws(node, hello=False, additional_headers=foreign) as client:
        assert "error" in await client.connect()  # the cookie says nothing
    async with ws(node, hello=False, additional_headers=foreign) as client:
        assert "connect" in await client.connect(token=token())
        assert "subscribe" in await client.subscribe("user:ann")
        assert "error" in await client.subscribe("user:bob")


@pytest.mark.parametrize(
    ("origin", "scheme", "trusted"),
    [
        ("https://a.example", "https", True),
        ("https://a.example", "wss", True),
        ("http://a.example", "http", True),
        ("http://a.example", "ws", True),
        ("http://a.example", "https", False),
        ("http://a.example", "wss", False),
        ("https://a.example", "http", True),
        ("http://named.example", "https", True),
    ],
)
def test_an_insecure_page_does_not_speak_with_a_secure_cookie(origin: str, scheme: str, trusted: bool) -> None:  # noqa: FBT001 - parametrized
    headers = Headers({"origin": origin, "host": "a.example"})
    assert trusts_cookies(headers, ("http://named.example",), scheme) is trusted


async def test_a_cookie_speaks_for_what_a_browser_connects_with_and_nothing_else(
    start: StartNode, redis_url: str
) -> None:
    node = await start(settings=settings_for(redis_url, anonymous=False, cookie="session"))
    own = {"Origin": f"http://127.0.0.1:{node.port}", "Cookie": f"session={token()}"}
    async with ws(node, additional_headers=own) as client:
        assert "subscribe" in await client.subscribe("user:ann")
    for kind in ("http_stream", "sse"):
        async with emulated(kind, node, headers=own) as client:
            await client.connected()
            assert "subscribe" in await client.ask(subscribe={"channel": "user:ann"})
    with pytest.raises(InvalidStatus) as refused:
        async with ws(node, hello=False, additional_headers={**own, "Origin": "https://evil.example"}):
            pass
    assert refused.value.response.status_code == 403
    async with support.http(node) as http:
        event = {"type": "a.b", "channels": ["open:a"], "data": 1}
        assert (await http.post("/v1/events", json=event, headers=own)).status_code == 401


@pytest.mark.parametrize("value", ["root-key-for-tests", "nonsense", token(ttl=-1)])
async def test_a_cookie_that_is_no_good_token_is_refused(start: StartNode, redis_url: str, value: str) -> None:
    node = await start(settings=settings_for(redis_url, cookie="session"))
    async with sse(node.port, "channel=open:a", f"Cookie: session={value}", SAME) as client:
        assert client.status == 401
    async with sse(node.port, "channel=open:a", f"Cookie: other={value}", SAME) as client:
        assert client.status == 200  # anonymous


async def test_a_connection_whose_cookie_is_no_good_may_bring_a_token(start: StartNode, redis_url: str) -> None:
    node = await start(settings=settings_for(redis_url, anonymous=False, cookie="session"))
    stale = {"Origin": f"http://127.0.0.1:{node.port}", "Cookie": f"session={token(ttl=-1)}"}
    forged = {**stale, "Cookie": "session=a.b.c"}
    async with ws(node, hello=False, additional_headers=forged) as client:
        assert (await client.connect())["error"]["code"] == 101
    async with ws(node, hello=False, additional_headers=stale) as client:
        await client.send(connect={})
        assert await closed(client) == (3005, "connection expired")
    async with ws(node, hello=False, additional_headers=stale) as client:
        assert "connect" in await client.connect(token=token())
    async with emulated("sse", node, headers=stale, token=token()) as reader:
        await reader.connected()


@pytest.mark.parametrize("kind", ["cookie", "header"])
async def test_a_client_known_by_its_request_has_nothing_to_renew_and_ends_with_that(
    start: StartNode, redis_url: str, kind: str
) -> None:
    settings = settings_for(redis_url, cookie="session")
    node = await start(settings=settings, options=HubOptions(connect=0.1, ping=5, grace=30))
    brief = token(ttl=1.5)
    said = {"Cookie": f"session={brief}"} if kind == "cookie" else {"Authorization": f"Bearer {brief}"}
    known = {"Origin": f"http://127.0.0.1:{node.port}", **said}
    async with ws(node, hello=False, additional_headers=known) as client, ws(node, hello=False) as other:
        told = (await client.connect())["connect"]
        assert "expires" not in told
        assert "ttl" not in told
        assert (await other.connect(token=brief))["connect"]["expires"]
        assert await closed(client, 3) == (3005, "connection expired"), "at once, without the grace for a refresh"
        assert "refresh" in (await other.next())["push"]
    if kind == "cookie":
        async with ws(node, hello=False, additional_headers=known) as client:
            await client.send(connect={})
            assert await closed(client) == (3005, "connection expired"), "although anonymous clients are let in"


NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("type_", "ago", "over"),
    [
        ("job.succeeded", 3600, True),
        ("job.failed", 7200, True),
        ("job.cancelled", 7200, True),
        ("job.expired", 7200, True),
        ("job.succeeded", 3599, False),
        ("job.progress", 7200, False),
        ("job.queued", 7200, False),
    ],
)
def test_when_a_job_is_over(type_: str, ago: int, over: bool) -> None:  # noqa: FBT001 - parametrized
    at = (NOW - dt.timedelta(seconds=ago)).isoformat().replace("+00:00", "Z")
    state = json.dumps({"id": "x", "type": type_, "time": at, "data": {}}).encode()
    assert encoding.is_over(state, NOW.timestamp()) is over
    assert not encoding.is_over(b'{"type":"job.failed"}', NOW.timestamp())


async def test_a_reader_of_jobs_that_are_over_is_told_to_stop(
    start: StartNode, channels: ChannelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    node: Node = await start()
    states: dict[str, bytes | None] = {"mine": old("job.succeeded")}

    async def job_state(_tenant: str, job_id: str) -> bytes | None:
        return states.get(job_id)

    monkeypatch.setattr(node.hub, "job_state", job_state)
    mine = f"Authorization: Bearer {token()}"
    root = f"Authorization: Bearer {support.ROOT_KEY}"
    await publish(channels, "job:mine", type_="job.succeeded")
    async with sse(node.port, "channel=job:mine", mine) as first:
        assert first.status == 200  # who comes for the first time gets a stream
        before = (await first.block())["id"]
    back = f"Last-Event-ID: {before}"
    async with sse(node.port, "channel=job:mine", mine, back) as again:
        assert again.status == 204
    async with sse(node.port, "channel=job:mine&channel=open:a", mine, back) as wider:
        assert wider.status == 200
    async with sse(node.port, "channel=job:mine&channel=job:gone", root, back) as gone:
        assert gone.status == 204
    start_of_all = f"Last-Event-ID: {before.split('.')[0]}.0"
    async with sse(node.port, "channel=job:mine", mine, start_of_all) as behind:
        assert (await behind.event())["event"] == "job.succeeded"  # there is something it does not have
    async with sse(node.port, "channel=job:mine", mine, "Last-Event-ID: zzz.1") as lost:
        assert (await lost.event())["event"] == "gateway.reset"
    states["mine"] = old("job.queued")
    async with sse(node.port, "channel=job:mine", mine, back) as running:
        assert running.status == 200


def old(type_: str) -> bytes:
    return json.dumps({"id": "x", "type": type_, "time": "2020-01-01T00:00:00.000Z", "data": {}}).encode()


async def test_a_filter_holds_for_the_state_after_a_reset(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    query = "channel=job:mine&types=job.failed"
    async with sse(node.port, query, "Last-Event-ID: zzz.1", f"Authorization: Bearer {token()}") as client:
        assert (await client.event())["event"] == "gateway.reset"
        await publish(channels, "job:mine", type_="job.failed")
        assert (await client.event())["event"] == "job.failed"


@pytest.mark.parametrize("why", ["overload", "rate", "unavailable", "shutdown", "history"])
async def test_a_reader_that_is_sent_away_comes_back_with_its_ticket(
    start: StartNode, redis_url: str, channels: ChannelStore, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    node: Node = await start(settings=settings_for(redis_url, max_connections=1))
    principal = Principal(tenant="default", subject="ann", kind="token")
    ticket = (await node.app.state.tickets.issue(principal)).ticket
    query = f"channel=user:ann&ticket={ticket}"
    resumed = ("Last-Event-ID: nonsense",) if why == "history" else ()

    async def fails(*_: object) -> NoReturn:
        raise RateLimited if why == "rate" else StoreUnavailable

    async with AsyncExitStack() as stack:
        if why == "overload":
            await (await stack.enter_async_context(sse(node.port, "channel=open:a"))).block()
        elif why == "rate":
            monkeypatch.setattr("gateway.fanout.stream_routes.Streams._allow", fails)
        elif why == "shutdown":
            monkeypatch.setattr(node.hub, "draining", True)
        else:
            monkeypatch.setattr(node.hub, "in_time", fails)
        async with sse(node.port, query, *resumed) as turned_away:
            bye = await turned_away.event()
            reason = "unavailable" if why == "history" else why
            assert (bye["event"], json.loads(bye["data"])) == ("gateway.bye", {"reason": reason})
        async with sse(node.port, query, f"Last-Event-ID: {bye['id']}") as again:
            assert (await again.event())["id"] == bye["id"]
    monkeypatch.undo()
    await eventually(lambda: not node.hub.connections)
    async with sse(node.port, query) as without:
        assert without.status == 401
    async with sse(node.port, query, f"Last-Event-ID: {bye['id']}") as back:
        assert (await back.block())["event"] == "gateway.open"
        if why == "history":  # it had seen something, and still is told
            assert json.loads((await back.event())["data"]) == {"reason": "history"}
        await publish(channels, "user:ann", data=1)
        assert await back.datas(1) == [1]


async def test_a_reader_that_is_sent_away_keeps_its_place(
    start: StartNode, channels: ChannelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    node: Node = await start()
    principal = Principal(tenant="default", subject="ann", kind="token")
    query = f"channel=user:ann&ticket={(await node.app.state.tickets.issue(principal)).ticket}"
    async with sse(node.port, f"channel=user:ann&token={token()}") as before:
        await before.block()
    await publish(channels, "user:ann", data=1)
    monkeypatch.setattr(node.hub, "draining", True)
    async with sse(node.port, query, f"Last-Event-ID: {before.last_id}") as turned_away:
        bye = await turned_away.event()
    monkeypatch.undo()
    async with sse(node.port, query, f"Last-Event-ID: {bye['id']}") as back:
        assert await back.datas(1) == [1]
