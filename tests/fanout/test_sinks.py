"""The same hub under a server that cannot hand connections over."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import anyio.from_thread
import pytest
from redis.asyncio import Redis
from starlette.websockets import WebSocketDisconnect

from gateway.fanout.hub import Hub
from gateway.settings import Settings
from tests.fanout.support import application, publish
from tests.support.waiting import eventually_sync

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette would rather have another version of httpx
    from starlette.testclient import TestClient


@contextmanager
def client(settings: Settings) -> Iterator[tuple[TestClient, anyio.from_thread.BlockingPortal]]:
    """A TestClient and the hub on one loop in another thread."""
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(application(settings)) as app,
    ):
        tester = TestClient(app)
        tester.portal = portal
        yield tester, portal


def test_a_websocket_over_asgi(settings: Settings) -> None:
    with client(settings) as (tester, portal), tester.websocket_connect("/connection/websocket") as socket:
        socket.send_json({"id": 1, "connect": {}})
        assert "connect" in socket.receive_json()
        socket.send_json({"id": 2, "subscribe": {"channel": "open:a"}})
        assert "subscribe" in socket.receive_json()
        for number in range(3):
            portal.call(partial(publish_one, tester, number))
        got: list[int] = []
        while len(got) < 3:
            got += [json.loads(line)["push"]["pub"]["offset"] for line in socket.receive_text().split("\n")]
        assert got == [1, 2, 3]
        hub: Hub = tester.app.state.hub  # type: ignore[attr-defined] # a Starlette
        portal.call(hub.drain)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
        assert (closed.value.code, closed.value.reason) == (3001, "shutdown")


async def publish_one(tester: TestClient, number: int) -> None:
    await publish(tester.app.state.channels, "open:a", data=number)  # type: ignore[attr-defined] # a Starlette


def publish_and_drain(tester: TestClient, portal: anyio.from_thread.BlockingPortal) -> None:
    """What happens beside a request: TestClient hands out a response only when it is complete."""
    hub: Hub = tester.app.state.hub  # type: ignore[attr-defined] # a Starlette

    def offsets() -> list[int]:
        return [each.offset for connection in hub.connections for each in connection.subscriptions.values()]

    eventually_sync(lambda: portal.call(offsets) == [0])
    for number in range(3):
        portal.call(partial(publish_one, tester, number))
    eventually_sync(lambda: portal.call(offsets) == [3])  # they come by way of Redis, drain does not wait for them
    portal.call(hub.drain)


def test_a_stream_over_asgi(settings: Settings, redis: Redis) -> None:
    del redis
    with client(settings) as (tester, portal):
        beside = threading.Thread(target=publish_and_drain, args=(tester, portal))
        beside.start()
        answer = tester.get("/v1/stream?channel=open:a")
        beside.join()
        assert answer.status_code == 200
        blocks = [block for block in answer.text.split("\n\n") if "data: " in block]
        names = [line for block in blocks for line in block.split("\n") if line.startswith("event: ")]
        assert names == ["event: gateway.open", *["event: test.event"] * 3, "event: gateway.bye"]


@pytest.mark.parametrize("kind", ["http_stream", "sse"])
def test_an_emulated_connection_over_asgi(settings: Settings, redis: Redis, kind: str) -> None:
    del redis
    first = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"open:a"}}'
    with client(settings) as (tester, portal):
        beside = threading.Thread(target=publish_and_drain, args=(tester, portal))
        beside.start()
        if kind == "sse":
            answer = tester.get("/connection/sse", params={"cf_connect": first})
        else:
            json_type = {"Content-Type": "application/json"}
            answer = tester.post("/connection/http_stream", content=first, headers=json_type)
        beside.join()
        assert answer.status_code == 200
        lines = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n") if line]
        assert lines[0]["connect"]["session"]
        pushes = [line["push"] for line in lines if "push" in line]
        assert [push["pub"]["offset"] for push in pushes[:-1]] == [1, 2, 3]
        assert pushes[-1]["disconnect"] == {"code": 3001, "reason": "shutdown"}
