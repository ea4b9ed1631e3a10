"""Publications on the wire, encoded once whatever the number of subscribers. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Self

import msgspec

from gateway.events import Publication, base36
from gateway.fanout import frames, sse

MAX_BATCH = 256 * 1024  # bytes of one frame, unless a single publication is larger

# Everything before `data` in an event is flat: text and numbers. Inside JSON text a quote is escaped, so the
# first occurrence of this is the member itself (see `events.draft`).
_DATA = b',"datacontenttype":"application/json","data":'


class Wire(IntEnum):
    """In which form a connection takes publications."""

    FRAME = 0  # complete WebSocket frames, to a transport
    TEXT = 1  # WebSocket messages, to an ASGI server
    BLOCK = 2  # SSE blocks, shared by all plain readers of one channel
    PULL = 3  # SSE blocks put together per connection: several channels, filters, signed cursors
    LINE = 4  # WebSocket messages as lines, down the answer of an emulated connection
    DATA = 5  # the same as the data of SSE blocks


class Entry:
    """A publication and its encodings, made when first asked for."""

    __slots__ = ("_block", "_pub", "publication", "size")

    def __init__(self, publication: Publication) -> None:
        self.publication = publication
        self.size = len(publication.event) + len(publication.info)
        self._pub: bytes | None = None
        self._block: bytes | None = None

    @property
    def pub(self) -> bytes:
        """The Centrifuge publication as JSON."""
        if self._pub is None:
            self._pub = encode_pub(self.publication)
        return self._pub

    @property
    def cursor(self) -> str:
        """The SSE cursor after this publication, without a MAC."""
        publication = self.publication
        return f"{sse.generation_of(publication.epoch)}.{base36(publication.sequence)}"

    @property
    def block(self) -> bytes:
        """The SSE block with the event's type as its name."""
        if self._block is None:
            self._block = sse.publication_block(self.publication, self.cursor.encode())
        return self._block


def inner_data(event: bytes) -> bytes:
    """Return the bytes of an event's `data` member without parsing the event."""
    start = event.find(_DATA)
    return event[start + len(_DATA) : -1] if start >= 0 else event


def encode_pub(publication: Publication, skipped: int = 0) -> bytes:
    """Encode `{"data", "offset", "info"?, "tags"?}`.

    `data` is the event; of what a client published it is the client's own data, with `info`. `skipped` says
    how many superseded publications were left out before this one.
    """
    tags = b',"tags":{"skipped":"%d"}' % skipped if skipped else b""
    if publication.info:
        data, info = inner_data(publication.event), b',"info":%b' % publication.info
    else:
        data, info = publication.event, b""
    return b'{"data":%b,"offset":%d%b%b}' % (data, publication.offset, info, tags)


def push_prefix(channel: str) -> bytes:
    """Return what stands before a publication in a push; `}}` stands after it."""
    return b'{"push":{"channel":%b,"pub":' % msgspec.json.encode(channel)


def pushes(prefix: bytes, publications: Sequence[bytes]) -> bytes:
    """Encode publications as the pushes of one frame."""
    return prefix + (b"}}\n" + prefix).join(publications) + b"}}"


class Batch:
    """Consecutive publications of one channel in every wire form, each made when first asked for."""

    __slots__ = ("_blocks", "_data", "_frame", "_line", "_text", "entries", "prefix", "size")

    def __init__(self, prefix: bytes, entries: Sequence[Entry]) -> None:
        self.prefix = prefix
        self.entries = entries
        self.size = sum(entry.size for entry in entries)
        self._text: bytes | None = None
        self._frame: bytes | None = None
        self._blocks: bytes | None = None
        self._line: bytes | None = None
        self._data: bytes | None = None

    @classmethod
    def of(cls, text: bytes) -> Self:
        """Make one of pushes that are no publications; only sessions take it."""
        batch = cls(b"", ())
        batch._text = text
        return batch

    @property
    def text(self) -> bytes:
        """The pushes of one WebSocket message."""
        if self._text is None:
            self._text = pushes(self.prefix, [entry.pub for entry in self.entries])
        return self._text

    @property
    def frame(self) -> bytes:
        """The same as a complete server frame."""
        if self._frame is None:
            self._frame = frames.text(self.text)
        return self._frame

    @property
    def blocks(self) -> bytes:
        """The SSE blocks, joined."""
        if self._blocks is None:
            self._blocks = b"".join([entry.block for entry in self.entries])
        return self._blocks

    @property
    def line(self) -> bytes:
        """The pushes as lines."""
        if self._line is None:
            self._line = self.text + b"\n"
        return self._line

    @property
    def data(self) -> bytes:
        """The pushes as one SSE block without a name."""
        if self._data is None:
            self._data = sse.lines(self.text)
        return self._data

    def encoded(self, wire: Wire) -> bytes:
        """Return the form a shared wire takes; `PULL` has none."""
        return _FORMS[wire](self)


_FORMS: dict[Wire, Callable[[Batch], bytes]] = {
    Wire.FRAME: lambda batch: batch.frame,
    Wire.TEXT: lambda batch: batch.text,
    Wire.BLOCK: lambda batch: batch.blocks,
    Wire.LINE: lambda batch: batch.line,
    Wire.DATA: lambda batch: batch.data,
}


def fill(entries: Sequence[Entry], limit: int = MAX_BATCH) -> Sequence[Entry]:
    """Return as many entries from the front as fit into one frame, at least one."""
    size = 0
    for index, entry in enumerate(entries):
        size += entry.size + 64  # what a push and an offset add
        if size > limit and index:
            return entries[:index]
    return entries
