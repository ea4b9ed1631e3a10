"""Job types in Redis: registration, caps, pause; and the schedules of those that recur."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from gateway.jobs.cron import Schedule
from gateway.jobs.scripts import ADMISSION, load_script
from gateway.store.redis import Store

_REGISTER, _PAUSE, _TYPES = map(load_script, ("register", "pause", "types"))
_SCHEDULES, _FIRED = map(load_script, ("schedules", "fired"))
_FIRINGS = load_script("firings", ADMISSION)

SCHEDULE_AGE = 86_400.0  # seconds after which the schedule of a type nobody registers any more goes away


class TaskType(NamedTuple):
    """What a worker registers of a task.

    Attributes:
        pool: whose workers run it.
        max_attempts: tries until a job is dead.
        timeout: seconds an attempt may take.
        max_running: most of its jobs in queues and running at a time; 0: no cap.
        schedule: when it fires by itself.
    """

    pool: str
    max_attempts: int
    timeout: float
    max_running: int = 0
    schedule: Schedule | None = None

    def record(self) -> dict[str, object]:
        """Write what `types` keeps, as admission_prelude.lua reads it."""
        return {
            "po": self.pool,
            "ma": self.max_attempts,
            "tm": max(1, int(self.timeout * 1000)),
            "mr": self.max_running or None,
        }


class KnownType(msgspec.Struct, frozen=True, kw_only=True):
    """A job type as operators see it.

    Attributes:
        type: its name.
        pool: whose workers run it.
        max_attempts: tries until a job is dead.
        timeout: seconds an attempt may take.
        max_running: its cap; None: none.
        paused: nothing of it is started.
        open: jobs that have not ended.
        waiting: those of them that wait for a slot, or for the end of the pause.
        admitted: those that hold a slot of its cap.
        seen_at: when a worker last registered it, seconds since 1970.
    """

    type: str
    pool: str
    max_attempts: int
    timeout: float
    max_running: int | None
    paused: bool
    open: int
    waiting: int
    admitted: int
    seen_at: float


class KnownSchedule(NamedTuple):
    """A schedule as kept; times in milliseconds since 1970.

    Attributes:
        type: the job type.
        schedule: when, and what.
        next: the next firing.
        last: the last firing that made a job, and `job`, that job's id.
        skipped: firings that made none: paused, or the former job was still open.
    """

    type: str
    schedule: Schedule
    next: int
    last: int | None
    job: str | None
    skipped: int


class Firing(NamedTuple):
    """A firing that is due: of which type, when (ms), and whether it is to be skipped."""

    type: str
    schedule: Schedule
    at: int
    skip: bool


class Firings(NamedTuple):
    """What is due in a shard: the server's time and the time to the next firing (-1: none), ms."""

    now: int
    next_ms: int
    due: list[Firing]


class TaskTypes:
    """The job types of all shards."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def register(self, types: Mapping[str, TaskType]) -> None:
        """Make job types known, on every shard; schedules on their tenant's. Safe to repeat, a pause stays."""
        records = {name: known.record() for name, known in types.items()}
        for tag in self._store.tags():
            schedules = {
                name: known.schedule
                for name, known in types.items()
                if known.schedule is not None and self._store.tag(known.schedule.tenant) == tag
            }
            plans: dict[str, dict[str, object]] = {name: _plan(schedule) for name, schedule in schedules.items()}
            now, *asked = await self._store.run(_REGISTER, tag, types=records, schedules=plans)
            if asked:
                for name in (item.decode() for item in asked):
                    plans[name]["next"] = schedules[name].following(now)
                await self._store.run(_REGISTER, tag, types=records, schedules=plans)

    async def pause(self, name: str, *, paused: bool) -> bool:
        """Pause a type, or resume it; returns False when nobody ever registered it."""
        known = [await self._store.run(_PAUSE, tag, type=name, paused=paused) for tag in self._store.tags()]
        return any(known)

    async def known(self) -> list[KnownType]:
        """List the types by name, with their numbers over all shards."""
        found: dict[str, KnownType] = {}
        for tag in self._store.tags():
            for name, packed, seen, *numbers in await self._store.run(_TYPES, tag):
                one = _known_type(name.decode(), packed, seen, *numbers)
                former = found.get(one.type)
                found[one.type] = one if former is None else _sum(former, one)
        return [found[name] for name in sorted(found)]

    async def schedules(self, tenant: str) -> list[KnownSchedule]:
        """List a tenant's schedules by type."""
        found = await self._store.run(_SCHEDULES, self._store.tag(tenant), tenant=tenant)
        return sorted(_known_schedule(name.decode(), packed, next_) for name, packed, next_ in found)

    async def firings(self, tag: str, *, limit: int) -> Firings:
        """Ask what is to fire in a shard."""
        next_ms, now, *due = await self._store.run(_FIRINGS, tag, limit=limit, age_ms=int(SCHEDULE_AGE * 1000))
        known = [(_known_schedule(name.decode(), packed, at), bool(skip)) for name, packed, at, skip in due]
        return Firings(now, next_ms, [Firing(one.type, one.schedule, one.next, skip) for one, skip in known])

    async def fired(self, firing: Firing, *, following: int, job_id: str | None) -> bool:
        """Move a schedule on after a firing; returns False when somebody else did."""
        return bool(
            await self._store.run(
                _FIRED,
                self._store.tag(firing.schedule.tenant),
                name=firing.type,
                firing=firing.at,
                next=following,
                job=job_id,
            )
        )

    def tags(self) -> list[str]:
        """Return the tags of all shards."""
        return self._store.tags()


def _plan(schedule: Schedule) -> dict[str, object]:
    fields = msgspec.structs.asdict(schedule)
    spec = hashlib.sha256(msgspec.json.encode(fields)).hexdigest()[:16]
    return {
        "spec": spec,
        "tenant": schedule.tenant,
        "cron": schedule.cron,
        "zone": schedule.timezone,
        "input": schedule.input,
        "overlap": schedule.overlap == "allow",
    }


def _known_type(name: str, packed: bytes, seen: int, *numbers: int) -> KnownType:
    record: dict[str, Any] = msgspec.msgpack.decode(packed)
    open_, waiting, admitted = numbers
    return KnownType(
        type=name,
        pool=record["po"],
        max_attempts=record["ma"],
        timeout=record["tm"] / 1000,
        max_running=record.get("mr"),
        paused=record.get("pa", False),
        open=open_,
        waiting=waiting,
        admitted=admitted,
        seen_at=seen / 1000,
    )


def _sum(one: KnownType, other: KnownType) -> KnownType:
    return msgspec.structs.replace(
        one,
        paused=one.paused or other.paused,
        open=one.open + other.open,
        waiting=one.waiting + other.waiting,
        admitted=one.admitted + other.admitted,
        seen_at=max(one.seen_at, other.seen_at),
    )


def _known_schedule(name: str, packed: bytes, next_ms: int) -> KnownSchedule:
    record: dict[str, Any] = msgspec.msgpack.decode(packed)
    schedule = Schedule(
        cron=record["cron"],
        timezone=record["zone"],
        tenant=record["tenant"],
        input=record["input"],
        overlap="allow" if record["overlap"] else "skip",
    )
    return KnownSchedule(name, schedule, next_ms, record.get("last"), record.get("job"), record.get("skipped", 0))
