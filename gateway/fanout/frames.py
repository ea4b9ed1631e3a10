"""WebSocket frames as a server writes and reads them (RFC 6455 section 5). Pure.

Nearly everything a client sends is one small masked text frame, so those are read without any state. What is
anything else (control frames, fragments, halves, mistakes) goes to the sans-I/O core of `websockets`, which a
connection keeps only while such a thing is in progress.
"""

from __future__ import annotations

import codecs
from collections.abc import Generator
from typing import Any, NamedTuple

from websockets.frames import CLOSE, CONT, TEXT, Frame
from websockets.protocol import OPEN, SERVER, Protocol
from websockets.speedups import apply_mask
from websockets.streams import StreamReader

# Bytes of one message from a client. After a reconnect clients subscribe to all their channels in one message: 512,
# each with a position and perhaps a token.
MAX_MESSAGE = 1024 * 1024

_FIN_TEXT = 0x81
_FIN_CLOSE = 0x88
_MASKED = 0x80
_LENGTH = 0x7F
_SHORT = 126  # a length from here on is told in two bytes
_LONG = 127  # … in eight
_KEY = 4  # bytes of a masking key
_SMALL_HEADER = 2 + _KEY
_MEDIUM_HEADER = 4 + _KEY
_TWO_BYTES = 1 << 16
_MAX_REASON = 123  # RFC 6455 section 5.5: a control frame carries at most 125 bytes, two are the code

NORMAL, PROTOCOL_ERROR, UNSUPPORTED, INVALID_DATA, TOO_BIG = 1000, 1002, 1003, 1007, 1009


def text(payload: bytes) -> bytes:
    """Return a complete unmasked text frame."""
    size = len(payload)
    if size < _SHORT:
        return b"%c%c%b" % (_FIN_TEXT, size, payload)
    if size < _TWO_BYTES:
        return b"%c%c%b%b" % (_FIN_TEXT, _SHORT, size.to_bytes(2, "big"), payload)
    return b"%c%c%b%b" % (_FIN_TEXT, _LONG, size.to_bytes(8, "big"), payload)


def close(code: int, reason: str) -> bytes:
    """Return a close frame; a reason that is too long is cut."""
    payload = code.to_bytes(2, "big") + reason.encode()[:_MAX_REASON]
    return b"%c%c%b" % (_FIN_CLOSE, len(payload), payload)


def plain(data: bytes, limit: int = MAX_MESSAGE) -> tuple[list[bytes], int]:
    """Read the complete, final, masked text frames at the start of `data`.

    Returns:
        The unmasked payloads, and how many bytes they took: what follows is something else, or a part.
    """
    messages: list[bytes] = []
    position, end = 0, len(data)
    while position + _SMALL_HEADER <= end and data[position] == _FIN_TEXT and data[position + 1] & _MASKED:
        size, start = data[position + 1] & _LENGTH, position + _SMALL_HEADER
        if size == _SHORT:
            size, start = int.from_bytes(data[position + 2 : position + 4], "big"), position + _MEDIUM_HEADER
        if size == _LONG or size > limit or start + size > end:
            break
        messages.append(apply_mask(data[start : start + size], data[start - _KEY : start]))
        position = start + size
    return messages, position


class Received(NamedTuple):
    """What bytes from a client amount to.

    Attributes:
        messages: complete text messages, in order.
        reply: bytes that must be written back now: pongs before the messages are answered, or a close after them.
        closed: the connection is over: after `reply` nothing is read or written.
        frames: how many there were, of any kind.
    """

    messages: list[bytes]
    reply: bytes
    closed: bool
    frames: int


class FrameReader:
    """Reads what `plain` does not. Create it when needed, drop it when `idle`."""

    __slots__ = ("_core", "_message", "_utf8", "_within")

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._core = _Core(SERVER, state=OPEN, max_size=limit)
        self._message = bytearray()
        self._utf8 = _Utf8()
        self._within = False  # a fragmented message

    @property
    def idle(self) -> bool:
        """Between two messages: no part of a frame, no fragment, not closing."""
        return not self._within and self._core.state is OPEN and _at_boundary(self._core.parser)

    def feed(self, data: bytes) -> Received:
        """Take bytes as they come from the network."""
        core = self._core
        core.receive_data(data)
        messages: list[bytes] = []
        over = False
        events = core.events_received()
        for event in events:
            if not over and isinstance(event, Frame):
                over = self._take(event, messages)
        closed = over or core.parser_exc is not None
        return Received(messages, b"".join(core.data_to_send()), closed, len(events))

    def _take(self, frame: Frame, messages: list[bytes]) -> bool:
        """Add the message a frame completes; True when nothing may follow."""
        if frame.opcode in (TEXT, CONT):
            self._within = not frame.fin
            if not self._readable(frame):
                self._core.fail(INVALID_DATA, "invalid UTF-8")
                return True
            self._message += frame.data  # not a list: of tiny fragments there may be any number
            if frame.fin:
                messages.append(bytes(self._message))
                self._message.clear()
            return False
        if frame.opcode is not CLOSE and frame.opcode not in _CONTROL:
            self._core.fail(UNSUPPORTED, "text messages only")
            return True
        return frame.opcode is CLOSE

    def _readable(self, frame: Frame) -> bool:
        """Whether fragments are UTF-8 so far; who reads a message in one piece looks for himself."""
        if frame.opcode is TEXT and frame.fin:
            return True
        try:
            self._utf8.decode(frame.data, final=frame.fin)
        except UnicodeDecodeError:
            return False
        return True


class _Core(Protocol):
    """`websockets`' own, except that a close is taken at its word also between two fragments (RFC 6455 section 5.4)."""

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is CLOSE:
            self.current_size = None
        super().recv_frame(frame)


_Utf8 = codecs.getincrementaldecoder("utf-8")

_CONTROL = frozenset({9, 10})  # ping and pong: the core answers


def _at_boundary(parser: Generator[Any, Any, Any]) -> bool:
    # The core has no question for this: it waits in `at_eof` exactly when the next byte starts a frame.
    inner: Any = parser
    while inner.gi_yieldfrom is not None:
        inner = inner.gi_yieldfrom
    return inner.gi_code is StreamReader.at_eof.__code__
