"""What the job scripts answer, as Python sees it. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from gateway.jobs.queue import Message


class Submitted(NamedTuple):
    """What the submit script decided.

    Attributes:
        kind: `accepted`, `parked` (accepted, and not to be published yet), `overloaded`, `existing`,
            `held` (an open job has the unique key), `unknown-type`, `quota`, `mismatch`, `in-flight` or `replay`.
        job: the job's JSON, if there is one.
        message: what to publish, when `accepted`.
        answer: the stored answer, when `replay`.
    """

    kind: str
    job: bytes = b""
    message: Message | None = None
    answer: bytes = b""


class Claim(NamedTuple):
    """A worker's right to a job: valid while `fence` is the newest. `turned`: it only has to be undone."""

    fence: int
    max_attempts: int
    timeout: float
    traceparent: str
    snoozes: int = 0
    turned: bool = False


class Holder(NamedTuple):
    """The worker's hold on a job: who may change its effects, steps and children."""

    tenant: str
    job_id: str
    fence: int

    @classmethod
    def of(cls, tenant: str, job_id: str, claim: Claim) -> Holder:
        """Return the hold a claim gives."""
        return cls(tenant, job_id, claim.fence)


class Job(NamedTuple):
    """A job as read: `json` without input and attempts; those only when asked for."""

    version: int
    status: str
    json: bytes
    owner: str
    input: bytes = b"{}"
    attempts: tuple[bytes, ...] = ()

    @property
    def full(self) -> bytes:
        """The JSON with input and attempts."""
        return b'%b,"input":%b,"attempts":[%b]}' % (self.json[:-1], self.input, b",".join(self.attempts))


class Result(NamedTuple):
    """A job's result: JSON, or None while there is none."""

    status: str
    owner: str
    json: bytes | None


class Confirmed(NamedTuple):
    """The attempt whose message was confirmed."""

    tenant: str
    id: str
    run: int
    attempt: int


class Due(NamedTuple):
    """What the due set gave.

    Attributes:
        next_ms: milliseconds to the next entry, -1 when there is none.
        lost: leases that had ended.
        failed: entries that could not be dealt with, and why.
        messages: to be published.
    """

    next_ms: int
    lost: int
    failed: list[str]
    messages: list[Message]


def decode_message(packed: bytes) -> Message:
    """Read a message as the scripts pack it."""
    fields: dict[str, Any] = msgspec.msgpack.decode(packed)
    fields["input"] = msgspec.Raw(fields["input"].encode())
    fields["timeout"] = fields.pop("timeout_ms") / 1000
    # An empty Lua table has no shape: it arrives as an empty list or map.
    fields["channels"] = tuple(fields["channels"] or ())
    return Message(**fields)
