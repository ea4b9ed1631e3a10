"""Checking stored jobs against their logs, and writing them anew from there (`gateway jobs rebuild`).

The state and its event are written by one script, so they differ only when something else wrote to Redis or lost part
of it. Then the log is believed, within bounds: a stored job that is ahead of its log is left alone, and so is an open
one whose input is lost (the message of its attempt rebuilds it, see `rebuild`). One that failed is a dead letter again;
of why, what its error says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from gateway.events import Position
from gateway.jobs.deaths import death_of
from gateway.jobs.document import event_channels
from gateway.jobs.replay import Difference, Told, differences, replay
from gateway.jobs.scripts import load_script
from gateway.schemas import Data
from gateway.store.channels import ChannelStore
from gateway.store.redis import Store

_LOOK, _RESTORE = map(load_script, ("look", "restore"))

PAGE: Final = 500
MISSING: Final = -1
DAMAGED: Final = -2
_TIMEOUT_MS: Final = 300_000  # of an attempt, where neither the record nor the type's registration says it

# The short names of prelude.lua.
_TEXTS: Final = {"st": "status", "ty": "type", "po": "pool", "pr": "priority", "ow": "owner"}
_NUMBERS: Final = {"ve": "version", "rn": "run", "at": "attempt", "ma": "max_attempts"}
_TIMES: Final = {
    "ca": "created_at",
    "qa": "queued_at",
    "sa": "started_at",
    "fa": "finished_at",
    "ra": "run_after",
    "ea": "expires_at",
}
_FRAGMENTS: Final = {"pg": "progress", "rs": "result", "er": "error"}
_STATIC: Final = (
    "id", "type", "tenant", "owner", "channels", "priority", "callback_url", "trace_id", "links", "pool",
    "max_attempts",
)  # fmt: skip


class Checked(NamedTuple):
    """A stored job beside its log.

    Attributes:
        tenant: whose it is.
        id: the job's.
        version: the stored one's; `MISSING`, `DAMAGED`.
        told: what the log tells.
        offset: of the log's newest entry.
        differences: empty when they agree.
    """

    tenant: str
    id: str
    version: int
    told: Told
    offset: int
    differences: Sequence[Difference]


class Restorer:
    """Checks and restores jobs."""

    def __init__(self, store: Store, channels: ChannelStore) -> None:
        self._store = store
        self._channels = channels

    async def tenants(self) -> list[str]:
        """Return everybody who has ever had a job; raises StoreUnavailable."""
        async with self._store.guard():
            found: list[Any] = [
                name for tag in self._store.tags() for name in await self._store.client.hkeys(f"{tag}open")
            ]
        return sorted(name.decode() for name in found)

    async def ids(self, tenant: str) -> AsyncIterator[str]:
        """Go through a tenant's jobs, oldest first, those without a record too; raises StoreUnavailable."""
        key, after = f"{self._store.tag(tenant)}ix:{tenant}:all", "-"
        while True:
            async with self._store.guard():
                page: list[Any] = list(await self._store.client.zrangebylex(key, after, "+", 0, PAGE))
            for job_id in page:
                yield job_id.decode()
            if len(page) < PAGE:
                return
            after = f"({page[-1].decode()}"

    async def check(self, tenant: str, job_id: str) -> Checked:
        """Compare a stored job with its log; raises StoreUnavailable."""
        for _ in range(10):
            version, job, attempts = await self._stored(tenant, job_id)
            history = await self._channels.history(tenant, f"job:{job_id}", since=Position("", 0), limit=-1)
            again, _, _ = await self._stored(tenant, job_id)
            if again == version:  # nothing happened between the two reads
                break
        told = replay(publication.event for publication in history.publications)
        if not history.complete:
            told = told._replace(faults=["the newest entries are missing"])
        differs = differences(job, attempts, told) if version != MISSING or told.job else []
        return Checked(tenant, job_id, version, told, history.offset, differs)

    async def _stored(self, tenant: str, job_id: str) -> tuple[int, Data, list[Data]]:
        version, job, attempts = await self._store.run(_LOOK, self._store.tag(tenant), tenant=tenant, id=job_id)
        if version < 0:
            return version, {}, []
        return (
            version,
            msgspec.json.decode(job, type=Data),
            [msgspec.json.decode(attempt, type=Data) for attempt in attempts.splitlines()],
        )

    async def restore(self, checked: Checked) -> str | None:
        """Write a job as its log tells it; returns why it was left alone, or None. Raises StoreUnavailable."""
        told = checked.told
        if told.faults:
            return "its log has faults itself"
        if not told.job:
            return "its log is empty"
        if checked.version > told.version:
            return f"it is ahead of its log: version {checked.version}, there {told.version}"
        said = await self._store.run(_RESTORE, self._store.tag(checked.tenant), **await self._arguments(checked))
        match said:
            case b"restored":
                return None
            case b"no-input":
                return "it is open and its input is lost; the message of its attempt rebuilds it"
            case _:
                return "it has changed meanwhile"

    async def _arguments(self, checked: Checked) -> dict[str, object]:
        told = checked.told
        job = told.job
        owner, own = msgspec.json.decode(job["owner"]), msgspec.json.decode(job["channels"])
        return {
            "tenant": checked.tenant,
            "id": checked.id,
            "version": checked.version,
            "offset": checked.offset,
            "fields": fields(told),
            "static": "{" + ",".join(f'"{name}":{bytes(job[name]).decode()}' for name in _STATIC),
            "attempts": "".join(f"{msgspec.json.encode({**one, 'worker': None}).decode()}\n" for one in told.attempts),
            "targets": [self._channels.target(name) for name in event_channels(owner, own)],
            "death": death_of(bytes(job["error"]).decode()) if told.status == "failed" else None,
            "timeout_ms": await self._timeout(checked.tenant, msgspec.json.decode(job["type"])),
        }

    async def _timeout(self, tenant: str, type_: str) -> int:
        async with self._store.guard():
            known: Any = await self._store.client.hget(f"{self._store.tag(tenant)}types", type_)
        return int(msgspec.msgpack.decode(known)["tm"]) if known else _TIMEOUT_MS


def fields(told: Told) -> dict[str, object]:
    """Return what changes of a job under the short names of the scripts; what is null is left out. Pure."""
    job = told.job
    found: dict[str, object] = {"tp": told.traceparent}
    found |= {short: msgspec.json.decode(job[name]) for short, name in (_TEXTS | _NUMBERS).items()}
    found |= {short: _ms(job[name]) for short, name in _TIMES.items()}
    found |= {short: _fragment(job[name]) for short, name in _FRAGMENTS.items()}
    found["ru"] = True if _fragment(job["result_url"]) else None
    return {short: value for short, value in found.items() if value is not None}


def _fragment(raw: msgspec.Raw) -> str | None:
    text = bytes(raw).decode()
    return None if text == "null" else text


def _ms(raw: msgspec.Raw) -> int | None:
    text = msgspec.json.decode(raw, type=str | None)
    return None if text is None else round(datetime.fromisoformat(text).timestamp() * 1000)
