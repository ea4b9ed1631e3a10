"""An event as a producer gives it, by `POST /v1/events` or from a task; and what is recorded of it. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gateway.errors import BodyTooLarge
from gateway.events import (
    MAX_CHANNELS,
    MAX_EVENT_BYTES,
    DataSchema,
    EventId,
    EventType,
    ProducerChannel,
    Subject,
    draft,
    new_id,
    oversized,
)
from gateway.store.channels import Outgoing


class NewEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event and its channels; `id` makes it idempotent for five minutes per channel."""

    type: EventType
    channels: Annotated[tuple[ProducerChannel, ...], msgspec.Meta(min_length=1, max_length=MAX_CHANNELS)]
    data: msgspec.Raw
    subject: Subject | None = None
    dataschema: DataSchema | None = None
    id: EventId | None = None


def outgoing(event: NewEvent, *, source: str, traceparent: str | None) -> Outgoing:
    """Return what to record.

    Args:
        event: what was given.
        source: CloudEvents `source`, a URI reference.
        traceparent: W3C trace context.

    Raises:
        BodyTooLarge: it is over 256 KiB.
    """
    made = draft(
        event.type,
        bytes(event.data),
        id_=event.id or new_id("evt_"),
        source=source,
        subject=event.subject,
        dataschema=event.dataschema,
        traceparent=traceparent,
    )
    if oversized(made):
        raise BodyTooLarge(f"An event is over {MAX_EVENT_BYTES} bytes")
    return Outgoing(made, tuple(dict.fromkeys(event.channels)), dedupe=event.id is not None)
