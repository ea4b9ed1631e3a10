"""What a task's helpers ask of their worker. The desk answers, to the loop, to threads, and over the pipe to processes.

MessagePack on the pipe; the tags keep the questions apart from what else is said there (`consumers.child`).
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from gateway.store.breakers import Rules

Value = bytes | int | None


class Said(msgspec.Struct, frozen=True, tag_field="is", tag=str.lower):
    """One of the things said."""


class Begin(Said, frozen=True):
    """An effect begins; answered by its result (JSON) if it happened before.

    Attributes:
        name: the effect.
        again: it may be done again when its end is not known.
    """

    name: str
    again: bool


class End(Said, frozen=True):
    """An effect has ended.

    Attributes:
        name: the effect.
        happened: whether it did.
        result: JSON, when it did.
    """

    name: str
    happened: Literal["yes", "no", "unknown"]
    result: bytes | None = None


class Admit(Said, frozen=True):
    """A passage through a breaker; answered by its number."""

    name: str
    rules: Rules


class Report(Said, frozen=True):
    """What came of a passage; `cut` when the task was cancelled in the middle of it."""

    number: int
    outcome: Literal["ok", "failed", "void", "cut"]


class Take(Said, frozen=True):
    """A lock is wanted; answered by its fence.

    Attributes:
        name: the lock.
        ttl: seconds of its lease, None for the job's own.
        wait: seconds to wait for it.
    """

    name: str
    ttl: float | None
    wait: float


class Free(Said, frozen=True):
    """A lock is given back."""

    name: str


class Publish(Said, frozen=True):
    """An event is to be published; answered by its id.

    Attributes:
        channels: their names.
        type: of the event.
        data: JSON.
        id: what tells it from others, if the task says so.
        subject: of the event.
    """

    channels: tuple[str, ...]
    type: str
    data: bytes
    id: str | None
    subject: str | None


Question = Begin | End | Admit | Report | Take | Free | Publish


class Asker(Protocol):
    """A context, as its helpers see it. Both methods raise what the desk raises."""

    async def ask(self, question: Question) -> Value:
        """Ask from the event loop."""
        ...

    def ask_sync(self, question: Question) -> Value:
        """Ask from a task in a thread or a process; blocks."""
        ...
