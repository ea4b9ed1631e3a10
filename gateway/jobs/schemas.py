"""The data of job events: the job, in every version there has been. Pure.

A version never changes. Another shape of the job is another model here, with an upcaster, golden files
(tests/golden/events) and a line in docs/events.md.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.jobs.model import EVENTS
from gateway.schemas import Schema, Version


class ProgressV1(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a job is; `fraction` is within 0 and 1."""

    done: float
    total: float | None
    fraction: float | None
    message: str | None


class ErrorV1(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why an attempt failed."""

    type: str
    message: str
    attempt: int
    retryable: bool


class LinksV1(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where more is."""

    self: str
    events: str
    result: str
    stream: str


class JobV1(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A job without input and attempts. Times are RFC 3339 in UTC with milliseconds."""

    id: str
    type: str
    tenant: str
    owner: str | None
    channels: list[str]
    priority: str
    callback_url: str | None
    trace_id: str
    links: LinksV1
    pool: str
    max_attempts: int
    status: str
    progress: ProgressV1 | None
    run: int
    attempt: int
    version: int
    created_at: str
    queued_at: str | None
    started_at: str | None
    finished_at: str | None
    run_after: str | None
    expires_at: str | None
    result: Any
    result_url: str | None
    error: ErrorV1 | None


PROGRESS: Final = "job.progress"
JOB: Final = Schema("job", (*sorted(EVENTS.values()), PROGRESS), (Version(JobV1),))
