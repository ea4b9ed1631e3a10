"""A job store on an empty Redis, with shorthands for its tests."""

from __future__ import annotations

import json
from typing import Any

from redis.asyncio import Redis

from gateway.events import Position, new_id
from gateway.jobs.document import static_json
from gateway.jobs.queue import Message
from gateway.jobs.records import Claim
from gateway.jobs.store import JobStore
from gateway.settings import Settings
from gateway.store.channels import ChannelStore
from gateway.store.redis import Store

TENANT = "default"
FIRST = "first delivery"
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-00"


class Bench:
    """A job store on an empty Redis, with shorthands."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings
        self.jobs = JobStore(store)
        self.channels = ChannelStore(store, settings)
        self.tag = store.tag(TENANT)

    def arguments(self, job_id: str) -> dict[str, Any]:
        """Return what a submission of an `echo` of ann's needs."""
        return {
            "id": job_id,
            "type": "echo",
            "owner": "ann",
            "priority": "default",
            "static": static_json(TENANT, job_id, "echo", "ann", [], "default", TRACE),
            "input": '{"value":[]}',
            "traceparent": TRACE,
            "targets": [self.channels.target(name) for name in ("user:ann", "jobs")],
            "max_open": 100,
            "lease_ms": 5000,
        }

    async def submit(self, job_id: str | None = None, **changes: Any) -> tuple[str, Message | None, str]:
        job_id = job_id or new_id("job_")
        outcome = await self.jobs.submit(TENANT, **{**self.arguments(job_id), **changes})
        return job_id, outcome.message, outcome.kind

    async def queued(self, **changes: Any) -> Message:
        """The message of a new job, recorded to be in its queue."""
        _, message, _ = await self.submit(**changes)
        assert message is not None
        await self.jobs.queued(message)
        return message

    async def running(self, **changes: Any) -> tuple[str, Message, Claim]:
        job_id, message, _ = await self.submit(**changes)
        assert message is not None
        return job_id, message, await self.held(message)

    async def held(self, message: Message) -> Claim:
        """Record that a message is in its queue, and claim it."""
        await self.jobs.queued(message)
        claim = await self.claim(message)
        assert isinstance(claim, Claim)
        return claim

    async def claim(self, message: Message, *, token: str = FIRST, lease: float = 10) -> Claim | str:
        return await self.jobs.claim(message, token=token, lease=lease, worker="w")

    async def job(self, job_id: str) -> dict[str, Any]:
        found = await self.jobs.get(TENANT, job_id, full=True)
        assert found is not None
        job: dict[str, Any] = json.loads(found.json)
        job["attempts"] = [json.loads(attempt) for attempt in found.attempts]
        return job

    async def events(self, channel: str) -> list[str]:
        history = await self.channels.history(TENANT, channel, since=Position("", 0), limit=-1)
        assert history.complete
        return [publication.type for publication in history.publications]


async def dump(redis: Redis) -> dict[bytes, bytes | None]:
    keys: list[bytes] = list(await redis.keys("*"))  # type: ignore[arg-type] # the client does not decode
    return {key: await redis.dump(key) for key in keys if not key.endswith(b"}:gen")}
