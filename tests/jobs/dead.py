"""Jobs that die, and what is seen and heard of dead letters."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from consumers.outcome import describe
from gateway.events import Position
from gateway.jobs.dead_filter import Filter
from gateway.jobs.deadletters import DeadLetters
from tests.jobs.bench import TENANT, Bench
from tests.support.waiting import eventually

EVERYTHING = Filter()


async def failing(bench: Bench, error: str = "", **changes: Any) -> str:
    job_id, _, claim = await bench.running(**changes)
    error = error or describe(ValueError(f"row {job_id} is bad"), 1, retryable=True)
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="failed", error=error)
    return job_id


async def listed(letters: DeadLetters, owner: str = TENANT, **filters: Any) -> list[str]:
    found = await letters.find(owner, msgspec.convert(filters, Filter), limit=100, bare=True)
    return [item.decode() for item in found.items]


async def told(bench: Bench, tenant: str = TENANT) -> list[dict[str, Any]]:
    history = await bench.channels.history(tenant, "ops", since=Position("", 0), limit=-1)
    return [json.loads(item.event) for item in history.publications]


async def next_millisecond(bench: Bench) -> None:
    """Wait until the server's clock has moved: what dies in the same millisecond has no order."""

    async def now() -> int:
        seconds, micros = await bench.store.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    began = await now()

    async def later() -> bool:
        return await now() > began

    await eventually(later)
