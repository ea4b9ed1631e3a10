"""Events, channel names, publications and positions. Pure: no I/O, no clock.

An *event* is a CloudEvents 1.0 object (JSON event format, https://github.com/cloudevents/spec). It is
validated and compacted once, at ingress; afterwards its bytes travel as they are and nobody parses them
again. A *publication* is an event at an offset of a channel.
"""

from __future__ import annotations

import re
import secrets
import time
from sys import intern
from typing import Annotated, Any, NamedTuple

import msgspec

from gateway.errors import FieldError, InvalidFields

MAX_EVENT_BYTES = 256 * 1024
MAX_CHANNELS = 64
_STORED_FIELDS = 128  # bytes the store adds: time and sequence

CHANNEL = re.compile(r"[A-Za-z0-9_.:@/-]{1,200}\Z")

# What producers may send, as types: the description completes the sentence "must be …" of a refusal.
EventType = Annotated[
    str,
    msgspec.Meta(
        max_length=100,
        pattern=r"^(?!gateway\.|job\.)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+\Z",
        description=(
            "words of A-Z a-z 0-9 _ - joined by at least one dot, at most 100 characters, "
            "not beginning with gateway. or job. (these are the gateway's own)"
        ),
    ),
]
EventId = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,128}\Z", description="1 to 128 characters of A-Z a-z 0-9 _ -")
]
Subject = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
DataSchema = Annotated[
    str,
    msgspec.Meta(
        max_length=512,
        pattern=r"^(?!(?i:urn:gateway:))[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?@!$&'()*+,;=\[\]-]|%[0-9A-Fa-f]{2})+\Z",
        description=(
            "an absolute URI without a fragment (RFC 3986 section 4.3), at most 512 characters, "
            "not beginning with urn:gateway: (these are the gateway's own)"
        ),
    ),
]
ProducerChannel = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(?!job:|jobs\Z)[A-Za-z0-9_.:@/-]{1,200}\Z",
        description=(
            "1 to 200 characters of A-Z a-z 0-9 _ . : @ / -, and neither jobs nor job:…: "
            "these take no events from producers"
        ),
    ),
]
TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")

CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


class Position(NamedTuple):
    """Where a reader of one channel stands: the offset of the last publication it has, under an epoch."""

    epoch: str
    offset: int


class Publication(NamedTuple):
    """An event at an offset of a channel, as the feed and the history deliver it.

    Attributes:
        epoch: names one life of the channel; offsets of different epochs do not compare.
        offset: 1, 2, 3 … per channel.
        sequence: the tenant's counter over all its publications; the same for every channel of one event.
        type: the event's type.
        key: conflation key (a job's id on `job.progress`), or empty: later ones with the same key supersede.
        info: the publishing client as JSON, or empty when a server published.
        event: the event's JSON, compact, one line.
    """

    epoch: str
    offset: int
    sequence: int
    type: str
    key: str
    info: bytes
    event: bytes


class Draft(NamedTuple):
    """An event before it is recorded: the store adds `time` and `sequence` between `head` and `tail`.

    Attributes:
        id: the event's id.
        type: the event's type.
        head: the JSON up to, and without, the comma before `time`.
        tail: the JSON after `sequence`, starting with a comma, ending with the closing brace.
    """

    id: str
    type: str
    head: str
    tail: str


def draft(
    type_: str,
    data: bytes,
    *,
    id_: str,
    source: str,
    subject: str | None = None,
    dataschema: str | None = None,
    traceparent: str | None = None,
) -> Draft:
    """Build the two fragments of an event around what only the store knows.

    Args:
        type_: the event's type, checked by `event_type`.
        data: compact JSON.
        id_: the event's id, checked by `event_id`.
        source: a URI reference (CloudEvents `source`).
        subject: CloudEvents `subject`.
        dataschema: CloudEvents `dataschema`.
        traceparent: W3C trace context.
    """
    fields: dict[str, str] = {"specversion": "1.0", "id": id_, "source": source, "type": type_}
    if subject is not None:
        fields["subject"] = subject
    if dataschema is not None:
        fields["dataschema"] = dataschema
    head = msgspec.json.encode(fields)[:-1].decode()
    trace = f',"traceparent":{msgspec.json.encode(traceparent).decode()}' if traceparent else ""
    tail = f'{trace},"datacontenttype":"application/json","data":{data.decode()}}}'
    return Draft(id_, type_, head, tail)


def oversized(event: Draft) -> bool:
    """Say whether an event is over `MAX_EVENT_BYTES`."""
    return len(event.head.encode()) + len(event.tail.encode()) + _STORED_FIELDS > MAX_EVENT_BYTES


def parse_live(payload: bytes) -> Publication:
    """Read what the recorder publishes on Redis: one header line, then the event.

    The header is `1 <epoch> <offset> <sequence> <previous> <type> <key|-> <info|->`; only the info may hold
    spaces. The event's JSON is not looked at.
    """
    header, _, event = payload.partition(b"\n")
    _, epoch, offset, sequence, _, type_, key, info = header.split(b" ", 7)
    # Rings hold thousands of these: texts that are always the same are there once.
    return Publication(
        intern(epoch.decode()),
        int(offset),
        int(sequence),
        intern(type_.decode()),
        "" if key == b"-" else key.decode(),
        b"" if info == b"-" else info,
        event,
    )


def parse_entry(epoch: str, entry_id: bytes, entry: bytes) -> Publication:
    """Read a history entry: id `offset-sequence`, body `<previous> <type> <key|-> <info|->` and the event."""
    return parse_live(b"1 %b %b %b" % (epoch.encode(), entry_id.replace(b"-", b" ", 1), entry))


def namespace(channel: str) -> str:
    """Return the part before the first colon, or `""`."""
    head, colon, _ = channel.partition(":")
    return head if colon else ""


def channel_fault(channel: str) -> str | None:
    """Say what is wrong with a channel's name, or None."""
    if CHANNEL.match(channel):
        return None
    return "must be 1 to 200 characters of A-Z a-z 0-9 _ . : @ / -"


def is_job_channel(channel: str) -> bool:
    """Say whether a channel belongs to the job engine: nobody else publishes to it."""
    return channel == "jobs" or namespace(channel) == "job"


def is_event_type(text: str) -> bool:
    """Say whether producers may send events of this type."""
    return _fits(text, EventType)


def is_event_id(text: str) -> bool:
    """Say whether a text can be an event's id."""
    return _fits(text, EventId)


def _fits(text: str, type_: Any) -> bool:  # noqa: ANN401 - a constrained str
    try:
        msgspec.convert(text, type_)
    except msgspec.ValidationError:
        return False
    return True


def check_tenant(tenant: str) -> str:
    """Return the tenant's name, or raise `InvalidFields`."""
    if TENANT.match(tenant):
        return tenant
    raise InvalidFields(errors=[FieldError("/tenant", "must be 1 to 64 characters of A-Z a-z 0-9 _ -")])


def new_id(prefix: str = "") -> str:
    """Make an id that sorts by the time it was made: 48 bits of milliseconds, 80 random bits (as a ULID)."""
    return id_of(prefix, time.time_ns() // 1_000_000, secrets.randbits(80))


def id_of(prefix: str, milliseconds: int, rest: int) -> str:
    """Make the id of a time and 80 further bits."""
    value = (milliseconds << 80) | rest
    return prefix + "".join(CROCKFORD[value >> shift & 31] for shift in range(125, -5, -5))


def base36(number: int) -> str:
    """Write a non-negative number with the digits 0-9a-z."""
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = _BASE36[digit] + digits
        if not number:
            return digits
