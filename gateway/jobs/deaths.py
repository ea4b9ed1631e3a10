"""Why a job failed: a word for people to filter by, and the group of errors it belongs to. Pure."""

from __future__ import annotations

from typing import Final, Literal, TypedDict

import msgspec

from gateway.jobs.queue import Message
from gateway.store.fingerprints import Group, group_of

JobReason = Literal[
    "failed",  # its attempts are used up
    "given-up",  # its task said that another attempt cannot help
    "uncertain",  # whether an effect of it has happened cannot be known
    "crashed",  # it has cost too many workers
    "rejected",  # a worker refused its message
    "undo-failed",  # a step of it could not be undone
]
# Errors that say more than whether another attempt might have helped.
_TELLING: Final[dict[str, JobReason]] = {"Uncertain": "uncertain", "CompensationFailed": "undo-failed"}


class Death(TypedDict):
    """What the scripts are told of it."""

    reason: JobReason
    group: Group


class _Error(msgspec.Struct):
    type: str = "Error"
    message: str = ""
    retryable: bool = True


def death_of(error: str) -> Death:
    """Return what the scripts need of a job's error, JSON `{type, message, retryable}`."""
    told = msgspec.json.decode(error, type=_Error)
    reason: JobReason = "failed" if told.retryable else "given-up"
    return {
        "reason": _TELLING.get(told.type, reason),
        "group": group_of(told.type, told.message),
    }


def refusal_of(message: Message, why: str) -> tuple[str, Death]:
    """Return the error and the death of a job whose message a worker refused."""
    error = {"type": "Rejected", "message": why, "attempt": message.attempt, "retryable": False}
    return msgspec.json.encode(error).decode(), {"reason": "rejected", "group": group_of("Rejected", why)}


# What the scripts record by themselves: a worker that was lost too often, or in the last attempt; and what nobody told.
_KNOWN: Final[dict[str, Death]] = {
    "crashed": {"reason": "crashed", "group": group_of("WorkerLost", "the worker was lost 3 times in this run")},
    "lost": {"reason": "failed", "group": group_of("WorkerLost", "the worker was lost")},
    "undo": {"reason": "undo-failed", "group": group_of("CompensationFailed", "the worker was lost")},
    "unknown": {"reason": "failed", "group": group_of("Error", "")},
}


def lua_deaths() -> str:
    """Write the deaths the scripts know of as a Lua function of their names."""
    lines = [
        f"  if name == '{name}' then return {{reason='{death['reason']}', group={_lua_list(death['group'])}}} end"
        for name, death in _KNOWN.items()
    ]
    return "\n".join(["local function known_death(name)", *lines, "end"])


def _lua_list(items: tuple[str, ...]) -> str:
    return "{" + ",".join(f"[==[{item}]==]" for item in items) + "}"
