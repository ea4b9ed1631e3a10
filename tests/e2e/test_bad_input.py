"""Bad input: a clear answer that names the field and the rule, never a traceback, and nothing accepted is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.e2e.clients import socket, token
from tests.e2e.stack import Stack, client

JSON = {"Content-Type": "application/json"}


def problem(response: Any, status: int, code: str) -> dict[str, str]:
    """Check that it is a problem document; return rule by pointer."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["type"].endswith(":" + code)
    assert "Traceback" not in response.text
    return {error["pointer"]: error["detail"] for error in body.get("errors", [])}


@pytest.mark.parametrize(
    ("body", "status", "code", "pointers"),
    [
        (b'{"type":', 400, "bad-request", set()),
        (b"\xff\xfe", 400, "bad-request", set()),
        (b'{"type":"echo","input":NaN}', 400, "bad-request", set()),
        (b"[]", 422, "invalid-fields", None),
        (b"{}", 422, "invalid-fields", {"/type"}),
        (b'{"type":7,"priority":"urgent","delay":-1}', 422, "invalid-fields", {"/type", "/priority", "/delay"}),
        (b'{"type":"echo","colour":"red"}', 422, "invalid-fields", {"/colour"}),
        (b'{"type":"nobody.registered"}', 422, "unknown-job-type", {"/type"}),
        (b'{"type":"a b"}', 422, "invalid-fields", {"/type"}),
        (
            b'{"type":"echo","channels":["job:x","a b","ok"]}',
            422,
            "invalid-fields",
            {"/channels/0", "/channels/1"},
        ),
        (b'{"type":"echo","input":"' + b"x" * (2 << 20) + b'"}', 413, "body-too-large", set()),
        (b'{"type":"echo","input":"' + b"x" * (300 << 10) + b'"}', 422, "invalid-fields", {"/input"}),
    ],
)
async def test_bodies(product: Stack, body: bytes, status: int, code: str, pointers: set[str] | None) -> None:
    _, url = product.gateway()
    async with client(url) as http:
        answer = await http.post("/v1/jobs", content=body, headers=JSON)
        named = problem(answer, status, code)
        assert pointers is None or set(named) == pointers
        assert (await http.get("/v1/jobs")).json()["items"] == []


async def test_credentials(product: Stack) -> None:
    _, url = product.gateway()
    expired = token("ann", ttl=-10)
    forged = token("ann", secret="another-secret-another-secret-another")
    for credential, code in [(expired, "token-expired"), (forged, "unauthenticated"), ("nonsense", "unauthenticated")]:
        async with client(url, credential) as http:
            for path in ("/v1/jobs", "/v1/stream?channel=user:ann"):
                problem(await http.get(path), 401, code)
    async with client(url, token("ann")) as http:
        problem(await http.post("/v1/jobs", json={"type": "echo"}), 403, "forbidden")
        problem(await http.get("/v1/stream", params={"channel": "user:bob"}), 403, "forbidden")
        problem(await http.get("/v1/stream", params={"channel": "a b"}), 422, "invalid-fields")
        problem(await http.get("/v1/jobs/job_00000000000000000000000000"), 404, "not-found")
        problem(await http.get("/v1/nowhere"), 404, "not-found")
        problem(await http.delete("/v1/jobs"), 405, "method-not-allowed")


async def test_websocket_credentials_and_channels(product: Stack) -> None:
    _, url = product.gateway()
    address = url.replace("http", "ws", 1) + "/connection/websocket"
    async with connect(address) as raw:
        await raw.send(json.dumps({"id": 1, "connect": {"token": token("ann", ttl=-10)}}))
        assert json.loads(await raw.recv())["error"]["code"] == 109
    async with connect(address) as raw:
        await raw.send(json.dumps({"id": 1, "connect": {"token": token("ann", secret="x" * 40)}}))
        await raw.wait_closed()
        assert raw.close_code == 3500
    async with connect(address) as raw:
        await raw.send("not json")
        await raw.wait_closed()
        assert raw.close_code == 3501
    async with socket(url, token("ann")) as opened:
        assert (await opened.call(subscribe={"channel": "user:bob"}))["error"]["code"] == 103
        assert (await opened.call(subscribe={"channel": "job:job_00000000000000000000000000"}))["error"]["code"] == 103
        assert "subscribe" in await opened.call(subscribe={"channel": "user:ann"})


async def test_events_from_producers(product: Stack) -> None:
    _, url = product.gateway()
    async with client(url) as http:
        good = {"type": "order.shipped", "channels": ["orders"], "data": {"n": [], "big": 2**60}, "id": "e-1"}
        first = await http.post("/v1/events", json=good)
        again = await http.post("/v1/events", json=good)
        assert first.status_code == 202
        assert again.json() == first.json()
        bad = [good, {**good, "type": "job.succeeded"}, {**good, "channels": ["job:x"]}, {**good, "channels": []}]
        named = problem(await http.post("/v1/events", json={"events": bad}), 422, "invalid-fields")
        assert set(named) == {"/events/1/type", "/events/2/channels/0", "/events/3/channels"}
        history = (await http.get("/v1/channels/orders/history", params={"since": 0})).json()
        assert [item["event"]["data"] for item in history["publications"]] == [good["data"]]
        problem(
            await http.get("/v1/channels/orders/history", params={"since": 0, "epoch": "old"}), 410, "position-lost"
        )
