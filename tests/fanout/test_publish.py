from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from gateway.settings import ChannelRules, Settings
from tests.fanout.conftest import StartNode
from tests.fanout.support import ROOT_KEY, token, ws


@pytest.fixture
async def http(start: StartNode) -> AsyncIterator[httpx.AsyncClient]:
    node = await start()
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{node.port}", headers={"Authorization": f"Bearer {ROOT_KEY}"}
    ) as client:
        yield client


def event(**changes: Any) -> dict[str, Any]:
    return {"type": "order.paid", "channels": ["open:a"], "data": {"n": 1}, **changes}


async def test_one_event_is_recorded_and_its_id_makes_it_idempotent(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/events", json=event(id="e1", channels=["open:a", "open:b"], subject="s"))
    assert answer.status_code == 202
    body = answer.json()
    assert body["id"] == "e1"
    assert {name: place["offset"] for name, place in body["positions"].items()} == {"open:a": 1, "open:b": 1}
    assert (await http.post("/v1/events", json=event(id="e1", channels=["open:a", "open:b"]))).json() == body
    without = [(await http.post("/v1/events", json=event())).json() for _ in range(2)]
    assert [one["positions"]["open:a"]["offset"] for one in without] == [2, 3]


async def test_many_events_keep_their_order(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/events", json={"events": [event(data=n) for n in range(250)]})
    assert answer.status_code == 202
    assert [one["positions"]["open:a"]["offset"] for one in answer.json()["events"]] == list(range(1, 251))
    history = (await http.get("/v1/channels/open:a/history?limit=1000")).json()
    assert [one["event"]["data"] for one in history["publications"]] == list(range(250))


async def test_data_travels_as_it_was_written(http: httpx.AsyncClient, start: StartNode) -> None:
    del start
    raw = b'{"type":"a.b","channels":["open:raw"],"data":{"float": 1.0, "big":1e400,"none":[]}}'
    answer = await http.post("/v1/events", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 202
    history = await http.get("/v1/channels/open:raw/history")
    assert b'"data":{"float":1.0,"big":1e400,"none":[]}' in history.content


async def test_every_wrong_field_is_named(http: httpx.AsyncClient) -> None:
    wrong = [event(), event(type="nodot"), event(id="no spaces"), event(channels=["job:x", "open:a", "b ad"]),
             event(type="job.succeeded")]  # fmt: skip
    answer = await http.post("/v1/events", json={"events": wrong})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    pointers = [fault["pointer"] for fault in answer.json()["errors"]]
    assert pointers == [
        "/events/1/type", "/events/2/id", "/events/3/channels/0", "/events/3/channels/2", "/events/4/type",
    ]  # fmt: skip
    for body, pointer in [
        ({"type": "a.b", "data": 1}, "/channels"),
        (event(extra=1), "/extra"),
        (event(channels=[]), "/channels"),
        (event(channels=["open:a"] * 65), "/channels"),
        ({"events": []}, "/events"),
        ({"events": [event(), {**event(), "data": 1, "type": 5}]}, "/events/1/type"),
    ]:
        answer = await http.post("/v1/events", json=body)
        assert answer.status_code == 422
        assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


async def test_who_may_publish(http: httpx.AsyncClient) -> None:
    mine = {"Authorization": f"Bearer {token()}"}
    assert (await http.post("/v1/events", json=event(), headers=mine)).status_code == 202
    refused = await http.post("/v1/events", json=event(channels=["open:a", "secret:a"]), headers=mine)
    assert refused.status_code == 403
    del http.headers["Authorization"]
    assert (await http.post("/v1/events", json=event())).status_code == 401


async def test_too_large_an_event(http: httpx.AsyncClient) -> None:
    assert (await http.post("/v1/events", json=event(data="x" * 262_144))).status_code == 413
    assert (await http.post("/v1/events", json=event(data="x" * 250_000))).status_code == 202


async def test_history_by_position(http: httpx.AsyncClient) -> None:
    for number in range(9):
        await http.post("/v1/events", json=event(channels=["short:a"], data=number))
    whole = (await http.get("/v1/channels/short:a/history")).json()
    assert (whole["offset"], [one["offset"] for one in whole["publications"]]) == (9, [5, 6, 7, 8, 9])
    after = await http.get(f"/v1/channels/short:a/history?since=6&epoch={whole['epoch']}&limit=2")
    assert [one["offset"] for one in after.json()["publications"]] == [7, 8]
    assert (await http.get("/v1/channels/short:a/history?since=1")).status_code == 410
    assert (await http.get("/v1/channels/short:a/history?since=6&epoch=other")).status_code == 410
    assert (await http.get("/v1/channels/short:a/history?since=x")).status_code == 422
    assert (await http.get("/v1/channels/b%20ad/history")).status_code == 422
    mine = {"Authorization": f"Bearer {token()}"}
    assert (await http.get("/v1/channels/secret:a/history", headers=mine)).status_code == 403


async def test_a_slash_is_part_of_a_channels_name(http: httpx.AsyncClient, start: StartNode) -> None:
    node = await start()
    await http.post("/v1/events", json=event(channels=["open:a/b"]))
    assert (await http.get("/v1/channels/open:a%2Fb/history")).json()["offset"] == 1
    async with ws(node) as client:
        assert (await client.subscribe("open:a/b"))["subscribe"]["offset"] == 1


async def test_ten_thousand_events_are_read_again_from_any_position(start: StartNode, settings: Settings) -> None:
    rules = {"long": ChannelRules(history_size=10_000)}
    node = await start(settings=msgspec.structs.replace(settings, channels=rules))
    headers = {"Authorization": f"Bearer {ROOT_KEY}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{node.port}", headers=headers, timeout=60) as client:
        for begin in range(0, 10_000, 1000):
            events = [event(channels=["long:a"], data=number) for number in range(begin, begin + 1000)]
            assert (await client.post("/v1/events", json={"events": events})).status_code == 202

        async def read(since: int, epoch: str) -> list[int]:
            numbers: list[int] = []
            while True:
                url = f"/v1/channels/long:a/history?since={since}&epoch={epoch}&limit=1000"
                page = (await client.get(url)).json()
                numbers += [one["event"]["data"] for one in page["publications"]]
                if not page["publications"]:
                    assert since == page["offset"]
                    return numbers
                since = page["publications"][-1]["offset"]

        epoch = (await client.get("/v1/channels/long:a/history?limit=0")).json()["epoch"]
        assert await read(0, epoch) == list(range(10_000))
        assert await read(7777, epoch) == list(range(7777, 10_000))
        assert (await client.get("/v1/channels/long:a/history?since=10&epoch=other")).status_code == 410


async def test_a_producers_dataschema_is_passed_on(http: httpx.AsyncClient) -> None:
    mine = "https://shop.example/schemas/order?v=1"
    assert (await http.post("/v1/events", json=event(dataschema=mine))).status_code == 202
    history = (await http.get("/v1/channels/open:a/history")).json()
    assert history["publications"][0]["event"]["dataschema"] == mine
    for wrong in ("urn:gateway:schema:job:1", "URN:gateway:x", "/relative", "no uri", "a:" + "x" * 512, ""):
        answer = await http.post("/v1/events", json=event(dataschema=wrong))
        assert [fault["pointer"] for fault in answer.json()["errors"]] == ["/dataschema"]
