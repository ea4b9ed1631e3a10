"""The steps of a saga and the bounds of a family of jobs, as tables. Pure; the Lua scripts are generated from the same.

    (new) ─► started ─► done ─────► undoing ─► undone
               ▲  │ └───────────────▲    │ ▲
               │  ▼                      ▼ │
             failed                 undo-failed

A step is `started` before its function is called, so one that stays `started` may have happened or not: it is run again
when the job resumes, and undone when the job does not. A step whose function raised is `failed`: it has not happened.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.jobs.model import lua_set

STEP_TRANSITIONS: Final[dict[str, frozenset[str]]] = {
    "started": frozenset({"done", "failed", "undoing"}),
    "failed": frozenset({"started"}),
    "done": frozenset({"undoing"}),
    "undoing": frozenset({"undone", "undo-failed"}),
    "undo-failed": frozenset({"undoing"}),
    "undone": frozenset(),
}
# What a compensation still has to undo, if the step names an undo.
TO_UNDO: Final = frozenset({"started", "done", "undoing", "undo-failed"})

# A parent that enters one of these has its open children cancelled. One that succeeds leaves them alone.
ABANDONS: Final = frozenset({"cancelling", "compensating", "failed", "cancelled"})

MAX_STEPS: Final = 100  # per run: their names and states are in every event of the job
MAX_STEP_RESULT: Final = 16 * 1024  # bytes of JSON
MAX_CHILDREN: Final = 1000  # per run
MAX_DEPTH: Final = 5  # a job without a parent is at depth 0
CHILD_PROGRESS_EVERY_MS: Final = 500  # between two progress events a parent has because of its children

NAME = re.compile(r"[A-Za-z0-9_.:/#-]{1,64}\Z")
NAME_RULE: Final = "must be 1 to 64 characters of A-Z a-z 0-9 _ . : / # -"


def transitions_table() -> str:
    """Write the transitions as Lua, for the one script that needs them."""
    allowed = ",".join(f"['{status}']={lua_set(following)}" for status, following in sorted(STEP_TRANSITIONS.items()))
    return f"local STEP_ALLOWED = {{{allowed}}}"


def step_tables() -> str:
    """Write what every job script needs as Lua."""
    return "\n".join(
        [
            f"local TO_UNDO = {lua_set(TO_UNDO)}",
            f"local ABANDONS = {lua_set(ABANDONS)}",
            f"local MAX_STEPS, MAX_CHILDREN, MAX_DEPTH = {MAX_STEPS}, {MAX_CHILDREN}, {MAX_DEPTH}",
            f"local CHILD_PROGRESS_EVERY = {CHILD_PROGRESS_EVERY_MS}",
        ]
    )
