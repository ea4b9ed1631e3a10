"""Server-sent events: blocks, cursors, control events (WHATWG HTML, section 9.2; DESIGN 3.6). Pure."""

from __future__ import annotations

import re
from datetime import datetime
from typing import NamedTuple

import msgspec

from gateway.events import Publication, base36

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
COMMENT = b":\n\n"
OPEN = "gateway.open"
RESET = "gateway.reset"
BYE = "gateway.bye"
ENDS = frozenset({"job.succeeded", "job.failed", "job.cancelled", "job.expired"})
OVER_AFTER = 3600.0  # seconds after its end for which a job may be run again before its readers

# Twelve digits are below 2^63: a forged sequence must fit into what is sent to the store.
_CURSOR = re.compile(r"([0-9a-z]{1,32})\.([0-9a-z]{1,12})(?:\.([A-Za-z0-9_-]{1,64}))?\Z")


class Cursor(NamedTuple):
    """Where a stream stands: the tenant's sequence under a generation.

    Attributes:
        generation: names what the store remembers; sequences of different generations do not compare.
        sequence: of the last publication the reader has.
        mac: binds the cursor to a ticket, or empty.
    """

    generation: str
    sequence: int
    mac: str = ""

    @property
    def text(self) -> str:
        """The cursor without its MAC: what a MAC is made over."""
        return f"{self.generation}.{base36(self.sequence)}"


# What proves a ticket for a reader that has seen nothing yet: no store has this generation. From the first on it still
# wants whatever is present when it comes; the second could not be resumed, and still has to be told.
FRESH, LOST = Cursor("0", 0), Cursor("0", 1)


def parse_cursor(text: str) -> Cursor | None:
    """Read an `id:` that came back, or None when it was never ours."""
    match = _CURSOR.match(text)
    return Cursor(match[1], int(match[2], 36), match[3] or "") if match else None


def generation_of(epoch: str) -> str:
    """Return the generation inside an epoch: an epoch is `<generation>.<birth of the channel>`."""
    return epoch.partition(".")[0]


def block(cursor: bytes, name: bytes, data: bytes) -> bytes:
    """Encode one event; an empty name leaves `event:` out, so browsers see `message`."""
    if name:
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (cursor, name, data)
    return b"id: %b\ndata: %b\n\n" % (cursor, data)


def lines(message: bytes) -> bytes:
    """Encode a message of several lines as one event without a name or an id."""
    return b"data: %b\n\n" % message.replace(b"\n", b"\ndata: ")


def publication_block(publication: Publication, cursor: bytes, *, named: bool = True, skipped: int = 0) -> bytes:
    """Encode a publication.

    `skipped` superseded ones before it are told in the event itself, as CloudEvents extension `skipped`:
    browsers cannot see comments, and an SSE event has no other place for it.
    """
    event = b'{"skipped":%d,%b' % (skipped, publication.event[1:]) if skipped else publication.event
    return block(cursor, publication.type.encode() if named else b"", event)


def opening(cursor: str, retry: float) -> bytes:
    """Encode the first block: a comment, how long to wait before reconnecting (seconds), and where we are.

    It is a control event with empty data, although HTML (section 9.2.6) keeps the id of a block without any as well:
    some clients drop it, and one that is cut off before its first event would come back without a cursor.
    """
    return b": open\nretry: %d\n" % round(retry * 1000) + block(cursor.encode(), OPEN.encode(), b"")


def position(cursor: str) -> bytes:
    """Encode a block that only moves the reader's cursor; no event is dispatched."""
    return f":\nid: {cursor}\n\n".encode()


def reset(cursor: str, reason: str) -> bytes:
    """Encode the control event that says: what you know may have a hole, `reason` says why, go on from here."""
    return block(cursor.encode(), RESET.encode(), msgspec.json.encode({"reason": reason}))


def bye(reason: str, retry: float, cursor: str = "") -> bytes:
    """Encode the control event before we close: come back after `retry` seconds, with `cursor` if there is one."""
    body = msgspec.json.encode({"reason": reason})
    place = f"id: {cursor}\n".encode() if cursor else b""
    return b"retry: %d\n%bevent: %b\ndata: %b\n\n" % (round(retry * 1000), place, BYE.encode(), body)


def state_block(event: bytes, cursor: bytes, *, named: bool = True) -> bytes:
    """Encode a job's present state: a complete job event whose type is inside it."""
    return block(cursor, type_of(event).encode() if named else b"", event)


def is_over(state: bytes, now: float) -> bool:
    """Whether a job whose newest event is `state` ended so long ago that its readers need not wait for another run.

    `now` is unix seconds.
    """
    newest = _typed.decode(state)
    if newest.type not in ENDS or newest.time is None:
        return False
    return now - newest.time.timestamp() >= OVER_AFTER


class _Typed(msgspec.Struct):
    type: str = ""
    time: datetime | None = None


_typed = msgspec.json.Decoder(_Typed)


def type_of(event: bytes) -> str:
    """Return an event's type."""
    return _typed.decode(event).type
