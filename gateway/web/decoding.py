"""JSON from outside: checked and compacted once, then decoded into a type. Pure.

What the sender wrote is kept: numbers such as `1.0`, `1e400` or 2**70 and empty arrays reach a field typed
`msgspec.Raw` byte for byte. Nothing goes through a float.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Any, TypeVar

import msgspec

from gateway.errors import BadRequest, InvalidFields
from gateway.web.faults import name_faults

T = TypeVar("T")

# Whoever decodes this later does so from a deeper stack than ours; RFC 8259 section 9 allows a limit.
MAX_DEPTH = 128

_BYTE = re.compile(r" \(byte (\d+)\)\Z")
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # 0xff read as a signed byte is -1
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def decode(data: bytes, type_: type[T]) -> T:
    """Decode a JSON document.

    A field typed `msgspec.Raw` gets its value's JSON as it was sent, without the whitespace. A repeated name
    counts with its last value.

    Raises:
        BadRequest: not JSON (RFC 8259), not UTF-8, or nested deeper than `MAX_DEPTH`.
        InvalidFields: it does not fit the type; every wrong field is named.
    """
    document = compact(data)
    try:
        return msgspec.json.decode(document, type=type_)
    except msgspec.ValidationError:
        raise InvalidFields(errors=name_faults(document, type_)) from None


def compact(data: bytes) -> bytes:
    """Check a JSON document and drop the whitespace outside of its strings.

    Raises:
        BadRequest: as `decode`.
    """
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"The JSON is not UTF-8 (byte {error.start})") from None
    try:
        # msgspec checks the grammar of every value, and of its escapes, while it copies it.
        document = msgspec.json.format(data, indent=-1)
    except msgspec.DecodeError as error:
        raise BadRequest(_sentence(str(error), data)) from None
    except RecursionError:
        raise _too_deep() from None
    if _deeper_than(document, MAX_DEPTH):
        raise _too_deep()
    return document


def parse(data: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Decode a JSON document into plain Python values.

    Raises:
        BadRequest: as `decode`.
        InvalidFields: a number is out of range.
    """
    return decode(data, Any)


def _too_deep() -> BadRequest:
    return BadRequest(f"The JSON is nested deeper than {MAX_DEPTH} levels")


def _sentence(message: str, data: bytes) -> str:
    if message.startswith("Input data was truncated"):
        # msgspec reports a surrogate at the end of a string this way too (RFC 8259 section 8.2).
        also = ", or a surrogate in it has no partner" if _HALF_PAIR.search(data) else ""
        return f"The JSON ends before it is complete{also} (byte {len(data)})"
    place = _BYTE.search(message)
    reason = _BYTE.sub("", message).removeprefix("JSON is malformed: ")
    return f"The JSON is malformed: {reason} (byte {place[1] if place else 0})"


def _deeper_than(document: bytes, limit: int) -> bool:
    if document.count(b"[") + document.count(b"{") <= limit:
        return False
    # At the speed of C: keep what is outside of strings, of that the brackets, and add them up as +1 and -1.
    bare = document.replace(rb"\\", b"").replace(rb"\"", b"")
    steps = b"".join(bare.split(b'"')[::2]).translate(_STEPS, _NOT_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > limit
