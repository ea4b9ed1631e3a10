"""What a message on the exchange `events` means: an event for channels, or why it is none (DESIGN 3.8). Pure.

Three forms are read, told apart in this order:

1. *structured* (content type `application/cloudevents+json`): the body is a CloudEvents 1.0 object;
2. *binary*: a header `cloudEvents:specversion` (or `cloudEvents_…`, `ce-…`, `ce_…`) says that attributes are headers
   and the body is the data;
3. *raw*: the body is the data, the attributes are taken from the AMQP properties.

The extensions `channels` and `tenant` say where the event goes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple
from urllib.parse import quote

import msgspec

from gateway.auth.principals import DEFAULT_TENANT
from gateway.errors import FieldError, GatewayError, InvalidFields
from gateway.events import (
    MAX_CHANNELS,
    MAX_EVENT_BYTES,
    DataSchema,
    Draft,
    EventType,
    ProducerChannel,
    Subject,
    draft,
    is_event_id,
    is_event_type,
    new_id,
    oversized,
)
from gateway.jobs.queue import Incoming
from gateway.store.channels import Outgoing
from gateway.web.decoding import compact, decode

STRUCTURED = "application/cloudevents+json"
_PROPERTIES = ("routing_key", "content_type", "message_id", "type", "app_id")
_KEPT = "x-was-"  # a header that holds such a property of a dead letter
RAW_TYPE = "amqp.message"  # of a raw message whose routing key is no event type

_PREFIX = re.compile(r"(?:cloudevents[:_]|ce[-_])", re.IGNORECASE)
_TRACE = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")
_JSON = re.compile(r"(?:application/json|[^/;]+/[^/;]+\+json)\s*(?:;|\Z)", re.IGNORECASE)
_TEXT = re.compile(r"text/", re.IGNORECASE)
_NULL = msgspec.Raw(b"null")
_MAX_ID = 1024
_MAX_SOURCE = 1024

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_ID)]


class Relayed(NamedTuple):
    """An event to be recorded, and whose it is."""

    tenant: str
    outgoing: Outgoing


class Unreadable(Exception):
    """The message is not an event we take; the text says why."""


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    """The attributes we read; further extensions are not carried on."""

    specversion: Literal["1.0"]
    id: _Text
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_SOURCE)]
    type: EventType
    subject: Subject | None = None
    dataschema: DataSchema | None = None
    datacontenttype: str | None = None
    traceparent: str | None = None
    tenant: Annotated[
        str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z", description="1 to 64 characters of A-Z a-z 0-9 _ -")
    ] = DEFAULT_TENANT
    channels: str | list[str] | None = None
    data: msgspec.Raw = _NULL
    data_base64: str | None = None


def properties_as_headers(message: Incoming) -> dict[str, str]:
    """Return what is no header of a message as headers, so that it survives being a dead letter."""
    return {_KEPT + name: value for name in _PROPERTIES if (value := getattr(message, name))}


def _original(message: Incoming) -> Incoming:
    """Return a message as it was published, if it was a dead letter meanwhile."""
    if _KEPT + "routing_key" not in message.headers:
        return message
    routing_key, content_type, message_id, type_, app_id = (
        str(message.headers.get(_KEPT + name, "")) for name in _PROPERTIES
    )
    return Incoming(message.body, routing_key, content_type, message.headers, message_id, type_, app_id)


def read(message: Incoming) -> Relayed:
    """Read a message.

    Raises:
        Unreadable: it is not an event, or one that may not be published.
    """
    try:
        return _read(_original(message))
    except InvalidFields as error:
        wrong = "; ".join(f"{fault.pointer} {fault.detail}" for fault in error.errors)
        raise Unreadable(wrong or error.detail) from error
    except GatewayError as error:
        raise Unreadable(error.detail) from error


def _read(message: Incoming) -> Relayed:
    attributes = {_PREFIX.sub("", name, 1).lower(): name for name in message.headers if _PREFIX.match(name)}
    if message.content_type.partition(";")[0].strip().lower() == STRUCTURED:
        event, data = _structured(message)
    elif "specversion" in attributes:
        event, data = _binary(message, attributes)
    else:
        return _raw(message)
    return _named(event, data, message)


def _structured(message: Incoming) -> tuple[_Event, bytes]:
    event = decode(message.body, _Event)
    if event.data_base64 is not None:
        raise _fault("/data_base64", "is not taken: data must be JSON")
    if event.datacontenttype and not (_JSON.match(event.datacontenttype) or _TEXT.match(event.datacontenttype)):
        raise _fault("/datacontenttype", "must be JSON or text")
    return event, bytes(event.data)


def _binary(message: Incoming, attributes: Mapping[str, str]) -> tuple[_Event, bytes]:
    fields = {name: _plain(message.headers[header]) for name, header in attributes.items()}
    fields |= {"data": None, "data_base64": None}
    return decode(msgspec.json.encode(fields), _Event), _data(message)


def _raw(message: Incoming) -> Relayed:
    said = message.type or (message.routing_key if is_event_type(message.routing_key) else RAW_TYPE)
    fields: dict[str, object] = {
        "specversion": "1.0",
        "id": message.message_id or "-",
        "source": f"/amqp/{quote(message.app_id, safe='')}" if message.app_id else "/amqp",
        "type": said,
    }
    fields |= {name: _plain(message.headers[name]) for name in ("channels", "tenant") if name in message.headers}
    event, data = decode(msgspec.json.encode(fields), _Event), _data(message)
    if not message.message_id:
        # Whether two such messages are one told twice cannot be known: each is an event of its own.
        return _relayed(event, new_id("evt_"), data, message, dedupe=True)
    return _named(event, data, message)


def _named(event: _Event, data: bytes, message: Incoming) -> Relayed:
    """Return what its producer gave an id: told again, it is recognised."""
    known = hashlib.sha256(f"{event.source}\n{event.id}".encode()).hexdigest()[:32]
    id_ = event.id if is_event_id(event.id) else known
    return _relayed(event, id_, data, message, dedupe=f"relay:{known}")


def _data(message: Incoming) -> bytes:
    """Return the body as compact JSON; text becomes a JSON string."""
    if not message.content_type or _JSON.match(message.content_type):
        return compact(message.body)
    if _TEXT.match(message.content_type):
        try:
            return msgspec.json.encode(message.body.decode())
        except UnicodeDecodeError as error:
            raise Unreadable(f"the text is not UTF-8 (byte {error.start})") from error
    raise Unreadable(f"the content type {message.content_type[:100]!r} is neither JSON nor text")


def _relayed(event: _Event, id_: str, data: bytes, message: Incoming, *, dedupe: bool | str) -> Relayed:
    said = event.channels if event.channels is not None else [message.routing_key]
    names = said.split(",") if isinstance(said, str) else said
    channels = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    _check_channels(channels)
    trace = event.traceparent or message.headers.get("traceparent")
    made: Draft = draft(
        event.type,
        data,
        id_=id_,
        source=event.source,
        subject=event.subject,
        dataschema=event.dataschema,
        traceparent=trace if isinstance(trace, str) and _TRACE.match(trace) else None,
    )
    if oversized(made):
        raise Unreadable(f"the event is over {MAX_EVENT_BYTES} bytes")
    return Relayed(event.tenant, Outgoing(made, channels, dedupe=dedupe))


class _Channels(msgspec.Struct):
    channels: Annotated[list[ProducerChannel], msgspec.Meta(min_length=1, max_length=MAX_CHANNELS)]


def _check_channels(channels: tuple[str, ...]) -> None:
    decode(msgspec.json.encode({"channels": channels}), _Channels)


def _plain(value: object) -> object:
    """Return a header's value as JSON knows it; bytes are text that some clients send so."""
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "replace")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str) or value is None else str(value)


def _fault(pointer: str, detail: str) -> InvalidFields:
    return InvalidFields(errors=[FieldError(pointer, detail)])
