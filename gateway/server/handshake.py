"""The opening handshake of a WebSocket (RFC 6455 section 4.2), from a request that has been parsed already. Pure."""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Iterable

Headers = Iterable[tuple[bytes, bytes]]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==\Z")  # 16 bytes in base64
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*\Z")  # RFC 9110 section 5.5
_OWN = frozenset({b"upgrade", b"connection", b"sec-websocket-accept", b"sec-websocket-extensions"})


def usual_key(method: str, http_version: str, headers: Headers) -> bytes | None:
    """Return the `Sec-WebSocket-Key` of a handshake with nothing unusual about it, or None.

    None is no refusal: whoever answers it then finds out what is wrong, and says so. That the request asks for an
    upgrade to `websocket` is known before.
    """
    keys: list[bytes] = []
    versions: list[bytes] = []
    upgrades = 0
    for name, value in headers:
        if name == b"sec-websocket-key":
            keys.append(value)
        elif name == b"sec-websocket-version":
            versions.append(value)
        elif name == b"upgrade":
            upgrades += 1
        elif name in {b"content-length", b"transfer-encoding"}:
            return None
    usual = method == "GET" and http_version == "1.1" and versions == [b"13"] and len(keys) == upgrades == 1
    return keys[0] if usual and _KEY.match(keys[0]) else None


def answer(key: bytes, subprotocol: str | None, *groups: Headers) -> bytes:
    """Return the bytes that accept a handshake, with further headers.

    Raises:
        RuntimeError: a header's value cannot stand in a header.
    """
    accept = binascii.b2a_base64(hashlib.sha1(key + _GUID, usedforsecurity=False).digest(), newline=False)
    lines = [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
        accept,
        b"\r\n",
    ]
    further = [header for group in groups for header in group]
    if subprotocol:
        further.append((b"sec-websocket-protocol", subprotocol.encode()))
    for name, value in further:
        if not _VALUE.match(value):
            raise RuntimeError("Invalid HTTP header value.")
        if name.lower() not in _OWN:
            lines += [name, b": ", value, b"\r\n"]
    lines.append(b"\r\n")
    return b"".join(lines)


def request(method: str, target: bytes, headers: Headers) -> bytes:
    """Return a parsed request as bytes, for whoever wants to read it again."""
    lines = [method.encode(), b" ", target, b" HTTP/1.1\r\n"]
    for name, value in headers:
        lines += [name, b": ", value, b"\r\n"]
    lines.append(b"\r\n")
    return b"".join(lines)
