"""The data of job events: the job, in every version there has been. Pure.

A version never changes. Another shape of the job is another model here, with an upcaster, golden files
(tests/golden/events) and a line in docs/events.md.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.jobs.model import EVENTS
from gateway.schemas import Data, Schema, Version


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


class StepV2(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step of a saga."""

    name: str
    status: str


class JobV2(JobV1, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A job that may have steps and a parent.

    Attributes:
        parent: the job that spawned it.
        steps: in the order they began.
        step: the one that changed last.
        ending: how the job will end once its steps are undone.
    """

    parent: str | msgspec.UnsetType = msgspec.UNSET
    steps: list[StepV2] | msgspec.UnsetType = msgspec.UNSET
    step: str | msgspec.UnsetType = msgspec.UNSET
    ending: str | msgspec.UnsetType = msgspec.UNSET


def _same(data: Data) -> Data:
    """Nothing was taken away, and what is new may be missing."""
    return data


PROGRESS: Final = "job.progress"
STEP: Final = "job.step"
# Version 1 was told without a `dataschema`.
JOB: Final = Schema("job", (*sorted(EVENTS.values()), PROGRESS, STEP), (Version(JobV1), Version(JobV2, _same)))
