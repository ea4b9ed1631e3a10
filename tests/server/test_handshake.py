"""The opening handshake as it is answered without reading the request a second time."""

from __future__ import annotations

import base64
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.utils import accept_key

from gateway.server.handshake import answer, request, usual_key

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3
USUAL = [
    (b"host", b"x"),
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-key", KEY),
    (b"sec-websocket-version", b"13"),
]


def without(name: bytes) -> list[tuple[bytes, bytes]]:
    return [header for header in USUAL if header[0] != name]


def test_the_answer_to_the_example_of_the_rfc() -> None:
    assert usual_key("GET", "1.1", USUAL) == KEY
    lines = answer(KEY, None).split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines
    assert lines[-2:] == [b"", b""]


@given(st.binary(min_size=16, max_size=16))
def test_every_key_is_answered_as_websockets_does(raw: bytes) -> None:
    key = base64.b64encode(raw)
    assert usual_key("GET", "1.1", [*without(b"sec-websocket-key"), (b"sec-websocket-key", key)]) == key
    assert b"Sec-WebSocket-Accept: " + accept_key(key.decode()).encode() in answer(key, None)


@pytest.mark.parametrize(
    ("method", "version", "headers"),
    [
        ("POST", "1.1", USUAL),
        ("GET", "1.0", USUAL),
        ("GET", "1.1", without(b"sec-websocket-key")),
        ("GET", "1.1", without(b"sec-websocket-version")),
        ("GET", "1.1", [*without(b"sec-websocket-version"), (b"sec-websocket-version", b"8")]),
        ("GET", "1.1", [*USUAL, (b"sec-websocket-version", b"13")]),
        ("GET", "1.1", [*USUAL, (b"sec-websocket-key", KEY)]),
        ("GET", "1.1", [*USUAL, (b"upgrade", b"h2c")]),
        ("GET", "1.1", [*USUAL, (b"content-length", b"3")]),
        ("GET", "1.1", [*without(b"sec-websocket-key"), (b"sec-websocket-key", b"short")]),
        ("GET", "1.1", [*without(b"sec-websocket-key"), (b"sec-websocket-key", KEY + b"=")]),
        ("GET", "1.1", [*without(b"sec-websocket-key"), (b"sec-websocket-key", KEY + b"\n")]),
    ],
)
def test_whatever_is_unusual_is_left_to_others(method: str, version: str, headers: list[tuple[bytes, bytes]]) -> None:
    assert usual_key(method, version, headers) is None


def test_further_headers_are_written_but_not_over_ours() -> None:
    lines = answer(KEY, "centrifuge-json", [(b"x-request-id", b"1")], [(b"Upgrade", b"h2c")]).split(b"\r\n")
    assert b"x-request-id: 1" in lines
    assert b"sec-websocket-protocol: centrifuge-json" in lines
    assert b"Upgrade: h2c" not in lines


@pytest.mark.parametrize("value", [b"a\r\nb: c", b"a\nb", b"\x00"])
def test_a_header_cannot_break_out_of_its_line(value: bytes) -> None:
    with pytest.raises(RuntimeError):
        answer(KEY, None, [(b"x", value)])


def test_a_request_can_be_read_again() -> None:
    target = b"/connection/websocket?" + secrets.token_hex(4).encode()
    assert request("GET", target, USUAL[:1]) == b"GET " + target + b" HTTP/1.1\r\nhost: x\r\n\r\n"
