"""Foreign jobs: work that another system runs and we only watch. They are recorded, told and kept like our own.

Nobody leases them and they are never published: what happens to them is what the other system says, in any order,
some of it twice and some of it never. The script makes sense of it: it fills in the states that were not told, and
drops what is old.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final, Literal, NamedTuple

from gateway.auth.principals import DEFAULT_TENANT
from gateway.jobs.document import event_channels, static_json
from gateway.jobs.model import INLINE_RESULT
from gateway.jobs.scripts import load_script
from gateway.settings import Settings
from gateway.store.channels import ChannelStore
from gateway.store.redis import Store

_OBSERVE, _ALIAS, _REVOCATIONS = map(load_script, ("observe", "alias", "revocations"))
AT_ONCE: Final = 100  # changes one script applies
BYTES_AT_ONCE: Final = 4 * 1024 * 1024  # of their results; one alone may have more
NAMED_AT_ONCE: Final = 1000
REVOKED_AT_ONCE: Final = 500

State = Literal["queued", "running", "progress", "succeeded", "failed", "retrying", "cancelled", "expired", "requeued"]


class Change(NamedTuple):
    """Something another system says of a job.

    Attributes:
        state: what it did.
        attempt: which one, with `queued`.
        worker: JSON string: who did it.
        by: names the start, so that a repetition is known from another start.
        progress: JSON.
        result: JSON.
        error: JSON object without the attempt and the closing brace.
    """

    state: State
    attempt: int = 1
    worker: str | None = None
    by: str | None = None
    progress: str | None = None
    result: str | None = None
    error: str | None = None


class Birth(NamedTuple):
    """What a foreign job is, when it is first heard of; `foreign_id` is its name there."""

    foreign_id: str
    type: str
    owner: str | None
    channels: tuple[str, ...]
    input: str
    max_attempts: int
    traceparent: str


class Named(NamedTuple):
    """A job that stands for another system's id."""

    tenant: str
    job_id: str


class Revocation(NamedTuple):
    """A foreign job that was cancelled here."""

    tenant: str
    job_id: str
    foreign_id: str


class Seen(NamedTuple):
    """A change of a job; with what the job is, if that is known."""

    job_id: str
    change: Change
    birth: Birth | None = None


class ForeignJobs:
    """The jobs of one other system.

    Args:
        store: Redis.
        settings: ours.
        source: the system's name; the pool its jobs are shown in.
        silence: seconds without a word after which an open job fails as `Unheard`.
    """

    def __init__(self, store: Store, settings: Settings, source: str, silence: float) -> None:
        self._store = store
        self._channels = ChannelStore(store, settings)
        self._source = source
        self._silence_ms = int(silence * 1000)
        self._remembered_ms = int((settings.job_retention + silence) * 1000)

    async def named(self, ids: Sequence[tuple[str, Named | None]]) -> list[Named | None]:
        """Return the jobs that stand for ids; the job given with one, if it has none yet; None if there is none.

        Raises:
            StoreUnavailable: Redis is away; to be repeated.
        """
        wanted = [[foreign, *(named or ())] for foreign, named in ids]
        parts = [wanted[start : start + NAMED_AT_ONCE] for start in range(0, len(wanted), NAMED_AT_ONCE)]
        # Not the tenant's shard: whose an id is, is what is asked.
        tag = self._store.tag(DEFAULT_TENANT)
        run = partial(self._store.run, _ALIAS, tag, source=self._source, ttl_ms=self._remembered_ms)
        found = [answer for part in parts for answer in await run(ids=part)]
        return [Named(*answer.decode().split(" ")) if answer else None for answer in found]

    async def observe(self, tenant: str, seen: Sequence[Seen]) -> list[str]:
        """Record changes of one tenant's jobs, in order; returns the states they are in afterwards. Safe to repeat.

        Raises:
            StoreUnavailable: Redis is away; to be repeated.
        """
        states: list[str] = []
        for items in parts_of(seen):
            part = [self._packed(tenant, item) for item in items]
            arguments = {"tenant": tenant, "silence_ms": self._silence_ms, "seen": part}
            states += [s.decode() for s in await self._store.run(_OBSERVE, self._store.tag(tenant), **arguments)]
        return states

    async def revocations(self, told: Sequence[Revocation] = ()) -> list[Revocation]:
        """Return jobs that were cancelled here, without those the other system has been told of.

        Raises:
            StoreUnavailable: Redis is away; to be repeated.
        """
        found: list[Revocation] = []
        for tag in self._store.tags():
            mine = [" ".join(job) for job in told if self._store.tag(job.tenant) == tag]
            arguments = {"source": self._source, "told": mine, "limit": REVOKED_AT_ONCE}
            found += [
                Revocation(*entry.decode().split(" "))
                for entry in await self._store.run(_REVOCATIONS, tag, **arguments)
            ]
        return found

    def _packed(self, tenant: str, seen: Seen) -> dict[str, Any]:
        packed: dict[str, Any] = {"id": seen.job_id, **seen.change._asdict()}
        if seen.change.result is not None:
            packed["apart"] = len(seen.change.result) > INLINE_RESULT
        if seen.birth is not None:
            packed["born"] = self._born(tenant, seen.job_id, seen.birth)
        return packed

    def _born(self, tenant: str, job_id: str, birth: Birth) -> dict[str, Any]:
        static = static_json(tenant, job_id, birth.type, birth.owner, birth.channels, "default", birth.traceparent)
        return {
            "source": self._source,
            "foreign_id": birth.foreign_id,
            "type": birth.type,
            "owner": birth.owner,
            "pool": self._source,
            "priority": "default",
            "static": static,
            "input": birth.input,
            "max_attempts": birth.max_attempts,
            "traceparent": birth.traceparent,
            "targets": [self._channels.target(name) for name in event_channels(birth.owner, birth.channels)],
        }


def parts_of(seen: Sequence[Seen]) -> Iterator[list[Seen]]:
    """Cut changes into parts for one script each, bounded in number and bytes. Pure."""
    part: list[Seen] = []
    size = 0
    for item in seen:
        size += len(item.change.result or "")
        if part and (len(part) == AT_ONCE or size > BYTES_AT_ONCE):
            yield part
            part, size = [], len(item.change.result or "")
        part.append(item)
    if part:
        yield part
