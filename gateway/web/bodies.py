"""Read a request's JSON body: type, size, grammar and fields checked."""

from __future__ import annotations

import asyncio
import re
from typing import TypeVar

from starlette.requests import Request

from gateway.errors import BodyTooLarge, BodyTooSlow, UnsupportedMediaType
from gateway.web.decoding import decode

T = TypeVar("T")

MAX_BODY = 1024 * 1024
IN_TIME = 30.0  # seconds for a whole body: who sends a byte now and then does not hold a connection for ever

_JSON_TYPE = re.compile(r"application/([a-z0-9!#$&^_.-]+\+)?json\Z")  # RFC 6839 section 3.1
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)


async def read_json(request: Request, type_: type[T], *, limit: int = MAX_BODY) -> T:
    """Read the body into a type; see `gateway.web.decoding.decode` for how.

    Args:
        request: whose body nobody has read yet.
        type_: usually a `msgspec.Struct` with `forbid_unknown_fields=True`.
        limit: bytes; not more are ever held.

    Raises:
        UnsupportedMediaType: no `Content-Type`, or not JSON in UTF-8.
        BodyTooLarge: more than `limit` bytes.
        BodyTooSlow: not all there within `IN_TIME`.
        BadRequest: not JSON.
        InvalidFields: wrong fields, every one named.
    """
    return decode(await read_body(request, limit=limit), type_)


async def read_body(request: Request, *, limit: int = MAX_BODY) -> bytes:
    """Read the bytes of a JSON body; the JSON is not looked at. Raises as `read_json`."""
    _check_type(request.headers.get("content-type", ""))
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(IN_TIME):
            return await _read(request, limit)
    except TimeoutError:
        raise BodyTooSlow(f"The body was not complete within {IN_TIME:.0f} seconds") from None


async def _read(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit:
            raise _too_large(limit)
        body += chunk
    return bytes(body)


def _check_type(content_type: str) -> None:
    if not _JSON_TYPE.match(content_type.partition(";")[0].strip().lower()):
        raise UnsupportedMediaType
    charset = _CHARSET.search(content_type)
    if charset and charset[1].lower() not in {"utf-8", "utf8", "us-ascii"}:
        raise UnsupportedMediaType("The body must be application/json in UTF-8")


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is over {limit} bytes")
