"""What a submitter may ask for."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gateway.errors import FieldError, InvalidFields
from gateway.events import MAX_CHANNELS, MAX_EVENT_BYTES, ProducerChannel
from gateway.jobs.model import TYPE, Priority

_YEAR = 365 * 86_400
_Type = Annotated[
    str, msgspec.Meta(max_length=100, pattern=f"^{TYPE.pattern}", description="words of A-Z a-z 0-9 _ - joined by dots")
]
_Owner = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9_.:@/-]{1,195}\Z",  # so that user:<owner> is a channel
        description="1 to 195 characters of A-Z a-z 0-9 _ . : @ / -",
    ),
]


class Submission(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a submitter asks for. Durations are seconds.

    Attributes:
        type: which task runs it.
        input: any JSON, at most 256 KiB.
        channels: further channels that get its events.
        owner: the user it belongs to: hears of it on `user:<owner>` and may read it.
        priority: its class.
        delay: not before so long from now.
        timeout: of one attempt, instead of the task's.
        max_attempts: instead of the task's.
        ttl: if it has not started by then it expires.
        unique: while a job of this type with the same key is open, submitting another gets that one.
    """

    type: _Type
    input: msgspec.Raw = msgspec.Raw(b"{}")
    channels: Annotated[tuple[ProducerChannel, ...], msgspec.Meta(max_length=MAX_CHANNELS - 3)] = ()
    owner: _Owner | None = None
    priority: Priority = "default"
    delay: Annotated[float, msgspec.Meta(ge=0, le=_YEAR)] | None = None
    timeout: Annotated[float, msgspec.Meta(ge=0.001, le=_YEAR)] | None = None
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    ttl: Annotated[float, msgspec.Meta(ge=0.001, le=_YEAR)] | None = None
    unique: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None


def check(wanted: Submission) -> None:
    """Check what types cannot say; raises InvalidFields."""
    if len(wanted.input) > MAX_EVENT_BYTES:
        rule = f"must be at most {MAX_EVENT_BYTES} bytes of JSON"
        raise InvalidFields(errors=[FieldError("/input", rule)])
