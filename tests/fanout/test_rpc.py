from __future__ import annotations

import asyncio

import pytest

from gateway.auth.principals import Principal
from gateway.errors import (
    Conflict,
    FieldError,
    Forbidden,
    GatewayError,
    InvalidFields,
    NotFound,
    QuotaExceeded,
    StoreUnavailable,
)
from gateway.fanout import codes
from tests.fanout.conftest import StartNode
from tests.fanout.support import ROOT_KEY, token, ws


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NotFound("there is no such job"), (404, "there is no such job", False)),
        (Conflict("it has ended"), (409, "it has ended", False)),
        (Forbidden("This needs an API key"), (103, "This needs an API key", False)),
        (QuotaExceeded("too many"), (111, "too many", True)),
        (StoreUnavailable(), (100, "The store is temporarily unavailable", True)),
        (GatewayError(), (100, "Internal error", False)),
        (InvalidFields(errors=[FieldError("/type", "must be text"), FieldError("", "is wrong")]),
         (107, "Some fields are not valid: /type must be text; / is wrong", False)),
        (NotFound("x" * 5000), (404, "x" * 500, False)),
    ],
)  # fmt: skip
def test_errors_keep_their_sentence(error: GatewayError, told: tuple[int, str, bool]) -> None:
    assert codes.told(error) == told


async def echo(principal: Principal, data: bytes) -> bytes:
    if data == b'"sleep"':
        await asyncio.sleep(0.05)
    if data == b'"fail"':
        raise Conflict("not now")
    return b'{"kind":"%b","data":%b}' % (principal.kind.encode(), data)


async def test_calls_get_who_calls_and_their_data(start: StartNode) -> None:
    node = await start(calls={"test.echo": echo})
    headers = {"Authorization": f"Bearer {ROOT_KEY}"}
    async with ws(node, additional_headers=headers) as client:
        answer = (await client.ask(rpc={"method": "test.echo", "data": {"n": [1.0, 2**70]}}))["rpc"]
        assert answer == {"data": {"kind": "key", "data": {"n": [1.0, 2**70]}}}
        assert (await client.ask(rpc={"method": "test.echo"}))["rpc"]["data"]["data"] == {}
        refused = (await client.ask(rpc={"method": "test.echo", "data": "fail"}))["error"]
        assert refused == {"code": 409, "message": "not now"}
        assert (await client.ask(rpc={"method": "test.other"}))["error"]["code"] == 108
        assert (await client.ask(rpc={}))["error"]["code"] == 108


async def test_answers_keep_the_order_of_the_calls(start: StartNode) -> None:
    node = await start(calls={"test.echo": echo})
    async with ws(node, hello=False) as client:
        await client.connect(token=token("ann"))
        numbers = [await client.send(rpc={"method": "test.echo", "data": data}) for data in ("sleep", "quick")]
        assert [(await client.next())["id"] for _ in numbers] == numbers
