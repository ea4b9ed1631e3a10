"""Reading a body over ASGI: what type it says, how long it is, and no byte more than allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from gateway.errors import BadRequest, BodyTooLarge, BodyTooSlow, InvalidFields, UnsupportedMediaType
from gateway.web import bodies
from gateway.web.bodies import MAX_BODY, read_json
from tests.support.waiting import LIMIT


class Body(msgspec.Struct, forbid_unknown_fields=True):
    n: int


class Upload:
    """A request whose chunks are counted as they are taken."""

    def __init__(self, chunks: Iterable[bytes], **headers: str) -> None:
        self.chunks = iter(chunks)
        self.taken = 0
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.request = Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, self.receive)

    async def receive(self) -> Message:
        chunk = next(self.chunks, None)
        if chunk is None:
            return {"type": "http.request", "body": b"", "more_body": False}
        self.taken += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": True}


async def test_reads_chunks_into_a_type() -> None:
    upload = Upload([b'{"n', b'": ', b"7}"], content_type="application/json; charset=UTF-8")
    assert (await read_json(upload.request, Body)).n == 7


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON", "application/cloudevents+json", "application/json;charset=utf-8"],
)
async def test_json_types_are_read(content_type: str) -> None:
    assert (await read_json(Upload([b'{"n":1}'], content_type=content_type).request, Body)).n == 1


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "text/json", "application/jsonx", "application/json; charset=latin-1"]
)
async def test_other_types_are_refused_unread(content_type: str | None) -> None:
    headers = {} if content_type is None else {"content_type": content_type}
    upload = Upload([b'{"n":1}'], **headers)
    with pytest.raises(UnsupportedMediaType):
        await read_json(upload.request, Body)
    assert upload.taken == 0


async def test_a_declared_length_over_the_limit_is_refused_unread() -> None:
    upload = Upload([b"x"], content_type="application/json", content_length=str(MAX_BODY + 1))
    with pytest.raises(BodyTooLarge):
        await read_json(upload.request, Body)
    assert upload.taken == 0


@pytest.mark.parametrize("declared", [None, "5", "nonsense"])
async def test_a_long_body_is_cut_while_streaming(declared: str | None) -> None:
    headers = {} if declared is None else {"content_length": declared}
    upload = Upload((b"x" * 1000 for _ in range(10**9)), content_type="application/json", **headers)
    with pytest.raises(BodyTooLarge):
        await read_json(upload.request, Body)
    assert upload.taken <= MAX_BODY + 1000


async def test_exactly_the_limit_is_read() -> None:
    body = b'{"n":1}'
    upload = Upload([body], content_type="application/json")
    assert (await read_json(upload.request, Body, limit=len(body))).n == 1


@pytest.mark.parametrize(("body", "error"), [(b"", BadRequest), (b"{", BadRequest), (b"{}", InvalidFields)])
async def test_wrong_bodies(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        await read_json(Upload([body], content_type="application/json").request, Body)


async def test_a_client_that_leaves() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    headers = [(b"content-type", b"application/json")]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
    with pytest.raises(ClientDisconnect):
        await read_json(request, Body)


async def test_a_body_that_dribbles_has_a_deadline_that_no_byte_renews(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "IN_TIME", 0.2)

    async def receive() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    headers = [(b"content-type", b"application/json")]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
    async with asyncio.timeout(LIMIT):
        with pytest.raises(BodyTooSlow):
            await read_json(request, Body)
