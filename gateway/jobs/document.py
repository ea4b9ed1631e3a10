"""The part of a job's JSON that never changes, and the channels its events go to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec


def static_json(
    tenant: str,
    job_id: str,
    type_: str,
    owner: str | None,
    channels: Sequence[str],
    priority: str,
    traceparent: str,
) -> str:
    """Write the fixed part of a job's JSON, without the closing brace.

    The scripts append pool and max_attempts (which the type decides) and all that changes.
    """
    path = f"/v1/jobs/{job_id}"
    fixed = {
        "id": job_id,
        "type": type_,
        "tenant": tenant,
        "owner": owner,
        "channels": channels,
        "priority": priority,
        "callback_url": None,
        "trace_id": traceparent.split("-")[1],
        "links": {
            "self": path,
            "events": f"{path}/events",
            "result": f"{path}/result",
            "stream": f"/v1/stream?channel=job:{job_id}",
        },
    }
    return msgspec.json.encode(fixed)[:-1].decode()


def implied_channels(owner: str | None) -> list[str]:
    """Return the channels every job's events go to, besides `job:<id>` and those the submitter names."""
    return [f"user:{owner}", "jobs"] if owner else ["jobs"]


def event_channels(owner: str | None, own: Iterable[str]) -> list[str]:
    """Return all channels a job's events go to besides `job:<id>`; `own`: those the submitter names."""
    return list(dict.fromkeys([*implied_channels(owner), *own]))
