"""The job's state machine, as tables. Pure; the Lua scripts are generated from the same tables.

    accepted ──┬───────────────────────► expired / cancelled
    scheduled ─┤
               ├─► queued ─► running ─┬─► succeeded
    retrying ──┤                      ├─► failed (dead letters)
    waiting ───┘                      ├─► cancelling ─► cancelled
                                      ├─► retrying (an error, a lost lease, a stop of the worker)
                                      ├─► waiting (for its children)
                                      └─► compensating ─► failed / cancelled

    with steps to undo, and no worker that holds it:
    queued, retrying, waiting ─► compensating ─► retrying ─► queued ─► compensating ─► failed / cancelled

A job with steps to undo that is to end `failed` or `cancelled` enters `compensating` instead. Where a worker holds it,
that one undoes them. Where none does (cancelled while `queued`, `retrying` or `waiting`; its worker lost too often),
it passes `compensating` and is `retrying` in the same moment: due, published, claimed like any other, and the claim
enters `compensating` again. A `waiting` parent is due when its last child has ended.

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
# These wait for their due time to be published to the queue; `waiting` also for its children.
TO_PUBLISH: Final = frozenset({"accepted", "scheduled", "retrying", "waiting"})

TRANSITIONS: Final[dict[str, frozenset[str]]] = {
    "accepted": frozenset({"queued", "cancelled", "expired"}),
    "scheduled": frozenset({"queued", "cancelled", "expired"}),
    "queued": frozenset({"running", "cancelled", "expired", "failed", "compensating"}),
    "running": frozenset({"succeeded", "failed", "retrying", "waiting", "cancelling", "cancelled", "compensating"}),
    "waiting": frozenset({"queued", "cancelled", "compensating"}),
    "retrying": frozenset({"queued", "cancelled", "expired", "failed", "compensating"}),
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
    allowed = ",".join(f"{state}={lua_set(following)}" for state, following in sorted(TRANSITIONS.items()))
    events = ",".join(f"{state}='{event}'" for state, event in sorted(EVENTS.items()))
    return "\n".join(
        [
            f"local ALLOWED = {{{allowed}}}",
            f"local EVENT = {{{events}}}",
            f"local TERMINAL = {lua_set(TERMINAL)}",
            f"local HELD = {lua_set(HELD)}",
            f"local TO_PUBLISH = {lua_set(TO_PUBLISH)}",
            f"local CRASH_LIMIT = {CRASH_LIMIT}",
            f"local MAX_SNOOZES = {MAX_SNOOZES}",
            f"local MAX_PROGRESS = {MAX_PROGRESS}",
        ]
    )


def lua_set(names: frozenset[str]) -> str:
    """Write names as a Lua table whose keys they are."""
    return "{" + ",".join(f"['{name}']=true" for name in sorted(names)) + "}"
