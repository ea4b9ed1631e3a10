"""Jobs in Redis: one method per script (DESIGN 4.1, 4.2). Decisions about state live in the scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from gateway.errors import Conflict, QuotaExceeded, StaleFence
from gateway.jobs.deaths import death_of
from gateway.jobs.pressure import WINDOW, Pressure
from gateway.jobs.queue import Message
from gateway.jobs.records import Claim, Confirmed, Due, Job, Result, Submitted, decode_message
from gateway.jobs.scripts import ADMISSION, load_script
from gateway.jobs.task_types import TaskType, TaskTypes
from gateway.store.redis import Script, Store

# What every job costs: calls that come together run together.
_SUBMIT = load_script("submit", ADMISSION, "spawn_prelude", many=True)
_CLAIM = load_script("claim", ADMISSION, many=True)
_QUEUED, _HEARTBEAT, _ADVANCE = (load_script(name, many=True) for name in ("queued", "heartbeat", "advance"))
_DUE, _RERUN = (load_script(name, ADMISSION) for name in ("due", "rerun"))
_SETTLE, _WITHDRAW, _CANCEL, _PRESSURE = map(load_script, ("settle", "withdraw", "cancel", "pressure"))
_RECHECK = load_script("recheck")
_JOB, _RESULT, _LIST, _PURGE, _REQUEUE = map(load_script, ("job", "result", "list", "purge", "requeue"))

_REBUILD_LEASE_MS = 60_000  # the claim that follows takes it over at once; should it not, the due set does
SCAN = 2000  # index entries one page of a list may look at


class JobStore:
    """The jobs of all tenants."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._news: dict[str, asyncio.Event] = {}

    def news(self, tag: str) -> asyncio.Event:
        """Return what is set when this process knows that a shard's due set has something to do."""
        return self._news.setdefault(tag, asyncio.Event())

    @property
    def redis(self) -> Store:
        """Where the jobs are."""
        return self._store

    async def run_script(self, script: Script, tenant: str, **arguments: object) -> Any:  # noqa: ANN401 - scripts differ
        """Run a script of `load_script` on the tenant's shard."""
        return await self._store.run(script, self._store.tag(tenant), tenant=tenant, **arguments)

    async def _gather(self, script: Script, tenant: str, **arguments: object) -> Any:  # noqa: ANN401 - scripts differ
        return await self._store.run_gathered(script, self._store.tag(tenant), tenant=tenant, **arguments)

    async def register(self, types: Mapping[str, tuple[str, int, float] | TaskType]) -> None:
        """Make job types known: type → `TaskType`, of which what comes after the first three is optional."""
        await TaskTypes(self._store).register({name: TaskType(*fields) for name, fields in types.items()})

    async def submit(self, tenant: str, **arguments: object) -> Submitted:
        """Accept a job; the arguments are those of `submit.lua`."""
        kind, *rest = await self._gather(_SUBMIT, tenant, **arguments)
        match kind:
            case b"accepted":
                return Submitted("accepted", rest[0], decode_message(rest[1]))
            case b"parked":
                return Submitted("parked", rest[0])
            case b"replay":
                return Submitted("replay", rest[1], answer=rest[0])
            case _:
                return Submitted(kind.decode(), *rest)

    async def rebuild(self, message: Message, static: str, targets: Sequence[tuple[str, int, int]]) -> None:
        """Write a job that Redis lost anew, as the message tells it: accepted, in the message's run and attempt."""
        await self._gather(
            _SUBMIT,
            message.tenant,
            id=message.id,
            type=message.type,
            owner=message.owner,
            priority=message.priority,
            static=static,
            input=bytes(message.input).decode(),
            max_attempts=message.max_attempts,
            timeout_ms=int(message.timeout * 1000),
            traceparent=message.traceparent,
            targets=targets,
            lease_ms=_REBUILD_LEASE_MS,
            rebuilt={
                "pool": message.pool,
                "run": message.run,
                "attempt": message.attempt,
                "created_at": message.created_at,
            },
            unique=message.unique,
        )

    async def settle(self, tenant: str, key: str, answer: bytes) -> None:
        """Keep the answer given under an Idempotency-Key."""
        await self.run_script(_SETTLE, tenant, key=key, answer=answer.decode())

    async def queued(self, message: Message | Confirmed) -> bytes | None:
        """Record that the broker has the message; returns the job."""
        job: bytes | None = await self._gather(
            _QUEUED, message.tenant, id=message.id, run=message.run, attempt=message.attempt
        )
        return job

    async def withdraw(self, tenant: str, job_id: str, key: str | None) -> bytes | None:
        """Take a refused job back; returns it if it went on meanwhile."""
        job: bytes | None = await self.run_script(_WITHDRAW, tenant, id=job_id, key=key)
        return job

    async def claim(self, message: Message, *, token: str, lease: float, worker: str) -> Claim | str:
        """Claim the attempt a message stands for.

        Returns:
            The claim, or why there is none: `missing` when the job is not known, else a reason to drop it.
        """
        kind, *rest = await self._gather(
            _CLAIM,
            message.tenant,
            id=message.id,
            run=message.run,
            attempt=message.attempt,
            token=token,
            lease_ms=int(lease * 1000),
            worker=msgspec.json.encode(worker).decode(),
        )
        if kind == b"claimed":
            fence, attempts, timeout_ms, traceparent, snoozes, turned = rest
            return Claim(fence, attempts, timeout_ms / 1000, traceparent.decode(), snoozes, bool(turned))
        return rest[0].decode() if rest else "missing"

    async def heartbeat(self, tenant: str, job_id: str, fence: int, lease: float) -> bool:
        """Extend the lease; returns whether cancelling was asked for.

        Raises:
            StaleFence: another worker owns the job, or it has ended.
        """
        said = await self._gather(_HEARTBEAT, tenant, id=job_id, fence=fence, lease_ms=int(lease * 1000))
        if said == b"stale":
            raise StaleFence
        return bool(said == b"cancel")

    async def advance(
        self, tenant: str, job_id: str, *, fence: int, op: int, to: str, **facts: object
    ) -> tuple[int, str]:
        """Record what the holder of the fence has to say; returns the job's version and state. Safe to repeat.

        Raises:
            StaleFence: another worker owns the job, or it has ended.
            Conflict: the state machine does not allow it.
        """
        error = facts.get("error")
        if isinstance(error, str):
            facts["death"] = death_of(error)
        kind, *rest = await self._gather(_ADVANCE, tenant, id=job_id, fence=fence, op=op, to=to, **facts)
        if kind == b"stale":
            raise StaleFence
        if kind == b"refused":
            raise Conflict(f"a job that is {rest[0].decode()} cannot become {to}")
        if rest[2:] == [1]:
            self.news(self._store.tag(tenant)).set()
        return rest[0], rest[1].decode()

    async def cancel(self, tenant: str, job_id: str) -> bytes | None:
        """Cancel a job, or ask its worker to; returns the job, or None when there is none.

        Raises:
            Conflict: it has ended.
        """
        found = await self.run_script(_CANCEL, tenant, id=job_id)
        if not found:
            return None
        kind, said = found
        if kind == b"ended":
            raise Conflict(f"the job has {said.decode()} already")
        return bytes(said)

    async def rerun(
        self, tenant: str, job_id: str, *, lease: float, max_open: int, max_admitted: int = 0, dead: bool = False
    ) -> tuple[bytes, Message | None] | None:
        """Accept an ended job for a new run; returns the job and what to publish now, or None when there is none.

        The due set publishes it after `lease` seconds. With `dead` only what is among the dead letters is run again.

        Raises:
            Conflict: it has not ended, or its unique key is another open job's.
            QuotaExceeded: the tenant has `max_open` open jobs.
        """
        limits = {"max_open": max_open, "max_admitted": max_admitted, "dead": dead}
        found = await self.run_script(_RERUN, tenant, id=job_id, lease_ms=int(lease * 1000), **limits)
        if not found:
            return None
        kind, *rest = found
        if kind == b"quota":
            raise QuotaExceeded
        if kind == b"held":
            raise Conflict(f"the open job {rest[0].decode()} has the same unique key")
        if kind == b"foreign":
            raise Conflict(f"{rest[0].decode()} runs this job: run it again there")
        if kind == b"open":
            raise Conflict(f"the job is {rest[0].decode()}; only an ended one can run again")
        return rest[0], decode_message(rest[1]) if kind == b"accepted" else None

    async def pressure(self, home: str, **of: str) -> Pressure:
        """Ask how much there is, and how fast jobs end, on a tenant's shard.

        Args:
            home: the tenant.
            of: the `pool` and `priority` meant, or the `tenant`; without them all of the shard.
        """
        tag = self._store.tag(home)
        return Pressure(*await self._store.run(_PRESSURE, tag, window_ms=int(WINDOW * 1000), **of))

    async def due(  # noqa: PLR0913 - what is known of the world, each by its name
        self,
        tag: str,
        *,
        limit: int,
        lease: float,
        publish: bool,
        blocked: Collection[str] = (),
        put_off: float = 1.0,
        max_admitted: int = 0,
        grace: float = 0.0,
    ) -> Due:
        """Act on what is due in one shard: recover lost leases, expire, hand out what is to be published.

        Args:
            tag: the shard's.
            limit: entries to act on.
            lease: seconds until an entry handed out is due again.
            publish: False while the broker is away.
            blocked: `<pool>.<priority>` of queues that are full.
            put_off: seconds to put off what cannot be published now.
            max_admitted: jobs a tenant may have in queues and running; 0: no cap.
            grace: seconds until a worker that could not be heard, because nobody was, is taken for lost: a lease.
        """
        next_ms, lost, failed, *packed = await self._store.run(
            _DUE,
            tag,
            limit=limit,
            lease_ms=int(lease * 1000),
            publish=publish,
            blocked=dict.fromkeys(blocked, True),
            put_off_ms=int(put_off * 1000),
            max_admitted=max_admitted,
            grace_ms=int(grace * 1000),
        )
        return Due(next_ms, lost, failed.decode().splitlines(), [decode_message(item) for item in packed])

    async def get(self, tenant: str, job_id: str, *, full: bool = False) -> Job | None:
        """Read a job, with `full` also its input and attempts."""
        found = await self.run_script(_JOB, tenant, id=job_id, full=full)
        if not found:
            return None
        version, status, text, owner, *more = found
        job = Job(version, status.decode(), text, owner.decode())
        return job._replace(input=more[0], attempts=tuple(more[1].splitlines())) if more else job

    async def result(self, tenant: str, job_id: str) -> Result | None:
        """Read a job's result."""
        found = await self.run_script(_RESULT, tenant, id=job_id)
        return Result(found[0].decode(), found[1].decode(), found[2]) if found else None

    async def find(
        self, tenant: str, *, limit: int, before: str | None = None, **filters: str | None
    ) -> tuple[Sequence[bytes], str]:
        """Find jobs, newest first; returns them and the id to go on before (empty at the end)."""
        before_next, *jobs = await self.run_script(_LIST, tenant, limit=limit, before=before, scan=SCAN, **filters)
        return jobs, before_next.decode()

    async def outdated(self, tag: str, *, retention: float, limit: int) -> list[tuple[str, str]]:
        """Find jobs that ended longer ago than the retention; returns their tenants and ids."""
        found = await self._store.run(_PURGE, tag, retention_ms=int(retention * 1000), limit=limit)
        return [(tenant, job_id) for tenant, _, job_id in (entry.decode().partition(" ") for entry in found)]

    async def purge(self, tag: str, jobs: Sequence[tuple[str, str]], *, retention: float) -> None:
        """Forget jobs that `outdated` found, if they are still so."""
        entries = [f"{tenant} {job_id}" for tenant, job_id in jobs]
        await self._store.run(_PURGE, tag, retention_ms=int(retention * 1000), entries=entries)

    async def requeue(self, tag: str, pool: str, *, limit: int = 500) -> int:
        """Make due again what a queue that forgot its messages held; returns how many there were."""
        return int(await self._store.run(_REQUEUE, tag, pool=pool, limit=limit))

    async def recheck(self, tag: str, *, delay: float, limit: int = 1000) -> bool:
        """After Redis came back, have queued jobs looked at in `delay` seconds; returns whether there are more."""
        return bool(await self._store.run(_RECHECK, tag, delay_ms=int(delay * 1000), limit=limit))

    def tags(self) -> list[str]:
        """Return the tags of all shards."""
        return self._store.tags()
