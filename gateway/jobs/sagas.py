"""Steps and children in Redis: one method per script. What a worker does with them is in `consumers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from gateway.errors import Conflict, Overloaded, QuotaExceeded, StaleFence, UnknownTaskType
from gateway.jobs.records import Holder
from gateway.jobs.scripts import ADMISSION, load_script
from gateway.jobs.steps import transitions_table
from gateway.jobs.store import JobStore

_STEP = load_script("step", tables=transitions_table())
_STEPS, _CHILDREN = map(load_script, ("steps", "children"))
_SUBMIT = load_script("submit", ADMISSION, "spawn_prelude")

PAGE = 100  # children asked for at a time: their results may have 16 KiB each


class JobCancelled(Exception):
    """The job is being cancelled: it begins nothing new."""


class Recorded(NamedTuple):
    """A step as recorded.

    Attributes:
        name: its name.
        status: see `gateway.jobs.steps`.
        undo: the name of what undoes it, or empty.
    """

    name: str
    status: str
    undo: str


class StepRecord(NamedTuple):
    """What is known of one step: its result and the input of its undo, JSON, and how often the undo was tried."""

    status: str
    result: bytes | None
    given: bytes | None
    tries: int


class Outcome(NamedTuple):
    """What became of a child: `status` is empty while it is open. `result` and `error` are JSON.

    `apart`: the result is too large to be here.
    """

    id: str
    status: str = ""
    result: bytes | None = None
    apart: bool = False
    error: bytes | None = None


class SagaStore:
    """The steps and children of jobs that a worker holds.

    All methods but `steps` raise StaleFence when it no longer does, JobCancelled when the job is to begin nothing new,
    and Conflict with the reason when a rule forbids it.
    """

    def __init__(self, jobs: JobStore) -> None:
        self._run = jobs.run_script

    async def step(self, holder: Holder, name: str, to: str, **facts: str | None) -> StepRecord:
        """Record that a step goes on; the facts are those of `step.lua`. Safe to repeat."""
        tenant, job_id, fence = holder
        rest = _checked(await self._run(_STEP, tenant, id=job_id, fence=fence, name=name, to=to, **facts))
        status, result, given, tries = rest
        return StepRecord(status.decode(), result, given, tries)

    async def steps(self, tenant: str, job_id: str) -> tuple[int, list[Recorded]]:
        """Read the run the steps belong to, and the steps in the order they began."""
        run, *rest = await self._run(_STEPS, tenant, id=job_id)
        texts = [text.decode() for text in rest]
        return run, [Recorded(*texts[at : at + 3]) for at in range(0, len(texts), 3)]

    async def spawn(self, holder: Holder, name: str, arguments: dict[str, object]) -> tuple[str, int]:
        """Accept a child, or find the one of that name; returns its id and its number.

        Raises:
            UnknownTaskType: nobody registered the type.
            QuotaExceeded, Overloaded: the tenant, or all together, have too many open jobs.
        """
        tenant, job_id, fence = holder
        parent = {"id": job_id, "fence": fence, "name": name}
        kind, *rest = await self._run(_SUBMIT, tenant, parent=parent, **arguments)
        match kind:
            case b"unknown-type":
                raise UnknownTaskType(f"no worker has registered {arguments['type']!r}")
            case b"quota":
                raise QuotaExceeded("the tenant has too many open jobs")
            case b"overloaded":
                raise Overloaded
            case b"held":
                raise Conflict("another open job has the unique key of the child")
            case b"child" | b"stale" | b"cancelling" | b"refused":
                pass
            case _:
                raise Conflict(f"the child was not accepted: {kind.decode()}")
        child, number = _checked([kind, *rest])
        return child.decode(), number

    async def children(self, holder: Holder, numbers: Sequence[int], gather: int) -> tuple[bool, list[Outcome]]:
        """Read what became of children; returns whether that gather's patience is over, and an outcome for each."""
        tenant, job_id, fence = holder
        late = False
        outcomes: list[Outcome] = []
        for at in range(0, len(numbers), PAGE):
            page = numbers[at : at + PAGE]
            over, *items = _checked(
                await self._run(_CHILDREN, tenant, id=job_id, fence=fence, children=page, gather=gather)
            )
            late = bool(over)
            outcomes += map(_outcome, items)
        return late, outcomes


def _checked(answer: list[Any]) -> list[Any]:
    """Return what follows the answer's kind, or raise what it says."""
    kind, *rest = answer
    match kind:
        case b"stale":
            raise StaleFence
        case b"cancelling":
            raise JobCancelled
        case b"refused":
            raise Conflict(rest[0].decode())
    return rest


def _outcome(kept: bytes) -> Outcome:
    if kept.startswith(b"job_"):
        return Outcome(kept.decode())
    job_id, status, result, apart, error = msgspec.msgpack.decode(kept)
    return Outcome(job_id, status, result.encode() if result else None, bool(apart), error.encode() if error else None)
