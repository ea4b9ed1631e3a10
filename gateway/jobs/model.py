"""The job's state machine, as tables. Pure; the Lua scripts are generated from the same tables.

              ┌────────────► expired / cancelled ◄────────────┐
    accepted ─┼─► queued ─► running ─► succeeded              │
    scheduled ┘      ▲         │ ├───► failed (dead letters)  │
                     │         │ ├───► cancelling ────────────┤
                  retrying ◄───┘ ├───► compensating ──────────┘
                     ▲           └───► waiting ─► queued
                     └── a lost lease

An ended job can be run again: a new run, from `accepted`.
"""

from __future__ import annotations

import re
from typing import Final, Literal

Priority = Literal["critical", "default", "bulk"]
PRIORITIES: Final[tuple[Priority, ...]] = ("critical", "default", "bulk")

TERMINAL: Final = frozenset({"succeeded", "failed", "cancelled", "expired"})
# A worker holds these under a lease and a fence.
HELD: Final = frozenset({"running", "cancelling", "compensating"})
# These wait for their due time to be published to the queue.
TO_PUBLISH: Final = frozenset({"accepted", "scheduled", "retrying"})

TRANSITIONS: Final[dict[str, frozenset[str]]] = {
    "accepted": frozenset({"queued", "cancelled", "expired"}),
    "scheduled": frozenset({"queued", "cancelled", "expired"}),
    "queued": frozenset({"running", "cancelled", "expired", "failed"}),
    "running": frozenset({"succeeded", "failed", "retrying", "waiting", "cancelling", "cancelled", "compensating"}),
    "waiting": frozenset({"queued", "cancelling", "cancelled", "failed", "expired"}),
    "retrying": frozenset({"queued", "cancelled", "expired", "failed"}),
    "cancelling": frozenset({"cancelled", "compensating", "succeeded", "failed"}),
    "compensating": frozenset({"failed", "cancelled", "retrying"}),
    "succeeded": frozenset({"accepted"}),
    "failed": frozenset({"accepted"}),
    "cancelled": frozenset({"accepted"}),
    "expired": frozenset({"accepted"}),
}
STATES: Final = frozenset(TRANSITIONS)

# The event that says a state was entered. `accepted` is told by the answer to the submitter alone.
EVENTS: Final[dict[str, str]] = {
    "scheduled": "job.scheduled",
    "queued": "job.queued",
    "running": "job.started",
    "waiting": "job.waiting",
    "retrying": "job.retrying",
    "cancelling": "job.cancelling",
    "compensating": "job.compensating",
    "succeeded": "job.succeeded",
    "failed": "job.failed",
    "cancelled": "job.cancelled",
    "expired": "job.expired",
}
TERMINAL_EVENTS: Final = frozenset(EVENTS[state] for state in TERMINAL)

CRASH_LIMIT: Final = 3  # lost leases per run, after which the job is taken for poison
MAX_SNOOZES: Final = 50  # times an attempt may be put back unburnt, after which it counts as one that failed
MAX_PROGRESS: Final = 1000  # progress entries kept in a job's log
INLINE_RESULT: Final = 16 * 1024  # bytes; larger results are fetched by `result_url`

TYPE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z")
POOL = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")  # a dot or a wildcard would change the meaning of a routing key
JOB_ID = re.compile(r"job_[0-9a-z]{26}\Z")


def may(current: str, following: str) -> bool:
    """Say whether a job in one state may enter another."""
    return following in TRANSITIONS[current]


def lua_tables() -> str:
    """Write the tables as Lua, so that the scripts and Python cannot disagree."""
    allowed = ",".join(f"{state}={_lua_set(following)}" for state, following in sorted(TRANSITIONS.items()))
    events = ",".join(f"{state}='{event}'" for state, event in sorted(EVENTS.items()))
    return "\n".join(
        [
            f"local ALLOWED = {{{allowed}}}",
            f"local EVENT = {{{events}}}",
            f"local TERMINAL = {_lua_set(TERMINAL)}",
            f"local HELD = {_lua_set(HELD)}",
            f"local TO_PUBLISH = {_lua_set(TO_PUBLISH)}",
            f"local CRASH_LIMIT = {CRASH_LIMIT}",
            f"local MAX_SNOOZES = {MAX_SNOOZES}",
            f"local MAX_PROGRESS = {MAX_PROGRESS}",
        ]
    )


def _lua_set(names: frozenset[str]) -> str:
    return "{" + ",".join(f"{name}=true" for name in sorted(names)) + "}"
