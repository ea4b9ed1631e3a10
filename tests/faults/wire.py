"""The client's half of a WebSocket and of an event stream, only as much as a subscriber needs; fast."""

from __future__ import annotations

from collections.abc import Iterator

UPGRADE = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TEXT, CLOSE = 0x81, 0x88


def frame(payload: bytes, first: int = TEXT) -> bytes:
    """A masked frame; the key is zero, so the payload stays readable."""
    size = len(payload)
    if size < 126:
        return b"%c%c\0\0\0\0%b" % (first, 0x80 | size, payload)
    if size < 65536:
        return b"%c\xfe%b\0\0\0\0%b" % (first, size.to_bytes(2, "big"), payload)
    return b"%c\xff%b\0\0\0\0%b" % (first, size.to_bytes(8, "big"), payload)


class Cutter:
    """Collects bytes and gives out what is complete: the response head, then frames or blocks."""

    def __init__(self) -> None:
        self._buffer = b""

    def add(self, data: bytes) -> None:
        self._buffer += data

    def head(self) -> bytes | None:
        """Everything up to the empty line, once it is there."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        found, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
        return found

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Complete server frames: first byte and payload."""
        buffer, at, end = self._buffer, 0, len(self._buffer)
        while at + 2 <= end:
            size, start = buffer[at + 1], at + 2
            if size > 125:
                start += 2 if size == 126 else 8
                size = int.from_bytes(buffer[at + 2 : start], "big")
            if start + size > end:
                break
            yield buffer[at], buffer[start : start + size]
            at = start + size
        self._buffer = buffer[at:]

    def blocks(self) -> list[bytes]:
        """Complete blocks of an event stream."""
        *blocks, self._buffer = self._buffer.split(b"\n\n")
        return blocks
