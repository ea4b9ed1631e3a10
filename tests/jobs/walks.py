"""Random lives of jobs, through the real scripts: whatever a worker, a user, a broker and a clock may do to one."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.errors import Conflict, StaleFence
from gateway.jobs.queue import Message
from gateway.jobs.records import Claim
from tests.jobs.bench import TENANT, Bench


class Walk:
    """One job; every step is taken if it can be, and refused by the scripts if not."""

    def __init__(self, bench: Bench, chance: random.Random) -> None:
        self.bench = bench
        self.chance = chance
        self.id = ""
        self.message: Message | None = None
        self.claim: Claim | None = None
        self.op = 0
        self.tokens = 0

    async def begin(self) -> None:
        options: dict[str, Any] = {"delay_ms": 1} if self.chance.random() < 0.3 else {}
        options |= {"ttl_ms": self.chance.choice([1, 60_000])} if self.chance.random() < 0.3 else {}
        self.id, self.message, _ = await self.bench.submit(max_attempts=3, **options)

    async def step(self) -> None:
        """Take one step at random."""
        steps: list[Callable[[], Awaitable[None]]] = [
            self.queued, self.claim_it, self.claim_it, self.progress, self.end, self.end, self.give_back,
            self.cancel, self.lose, self.due, self.forget, self.rerun,
        ]  # fmt: skip
        await self.chance.choice(steps)()

    async def queued(self) -> None:
        if self.message is not None:
            await self.bench.jobs.queued(self.message)

    async def claim_it(self) -> None:
        if self.message is None:
            return
        self.tokens += 1
        claim = await self.bench.claim(self.message, token=str(self.tokens))
        if isinstance(claim, Claim):
            self.claim, self.op = claim, 0

    async def _advance(self, to: str, **facts: object) -> None:
        if self.claim is None:
            return
        self.op += 1
        try:
            await self.bench.jobs.advance(
                TENANT, self.id, fence=self.claim.fence, op=self.op, to=to, lease_ms=60_000, **facts
            )
        except (StaleFence, Conflict):
            self.claim = None

    async def progress(self) -> None:
        shown = {"done": self.op, "total": 9, "fraction": 0.5, "message": None}
        for _ in range(self.chance.choice([1, 3])):
            await self._advance("progress", progress=json.dumps(shown, separators=(",", ":")))

    async def end(self) -> None:
        error = self._error()
        match self.chance.randrange(5):
            case 0:
                await self._advance("succeeded", result='{"rows":[1.0,1e400]}')
            case 1:
                await self._advance("succeeded", result=json.dumps("x" * 20_000), apart=True)
            case 2:
                await self._advance("failed", error=error)
            case 3:
                await self._advance("cancelled")
            case _:
                await self._advance("retrying", error=error, delay_ms=self.chance.choice([0, 1]))

    async def give_back(self) -> None:
        await self._advance("released")

    def _error(self) -> str:
        error = {"type": "X", "message": f"no {self.op}", "attempt": 1, "retryable": True}
        return json.dumps(error, separators=(",", ":"))

    async def cancel(self) -> None:
        if self.chance.random() < 0.5:
            return
        try:
            await self.bench.jobs.cancel(TENANT, self.id)
        except Conflict:
            return

    async def lose(self) -> None:
        """Whatever it waits for has come: a lease has ended, a delay is over."""
        await self.bench.store.client.zadd(self.bench.tag + "due", {f"{TENANT} {self.id}": 0}, xx=True)
        await self.due()

    async def due(self) -> None:
        found = await self.bench.jobs.due(self.bench.tag, limit=10, lease=60, publish=True)
        assert found.failed == []
        self.message = next((message for message in found.messages if message.id == self.id), self.message)

    async def forget(self) -> None:
        """The in-process queue has forgotten what it held."""
        await self.bench.jobs.requeue(self.bench.tag, "default", limit=10)

    async def rerun(self) -> None:
        try:
            again = await self.bench.jobs.rerun(TENANT, self.id, lease=5, max_open=100)
        except Conflict:
            return
        if again is not None:
            self.message = again[1]
