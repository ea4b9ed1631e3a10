"""The load: jobs submitted over HTTP, each repeated under its Idempotency-Key until it was accepted."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.e2e.stack import client
from tests.faults.work import TYPE
from tests.support.waiting import eventually

SUBMITTERS = 16
NAP = 0.1  # between two tries
CERTAIN = {400, 401, 403, 404, 422}  # answers that would be the same for ever


class Load:
    """Submits jobs and keeps what was promised.

    Attributes:
        accepted: job ids by Idempotency-Key.
        answers: how often each status came; 0: none came.
        forgetful: Redis may lose what it was told: a key repeated later may meet a new job.
    """

    def __init__(self, url: str, *, forgetful: bool = False) -> None:
        self.url = url
        self.forgetful = forgetful
        self.accepted: dict[str, str] = {}
        self.answers: Counter[int] = Counter()
        self._numbers = iter(range(10**9))
        self._name = secrets.token_hex(4)

    @asynccontextmanager
    async def running(self, count: int, rate: float, *, seconds: float = 0.05, failing: int = 0) -> AsyncIterator[None]:
        """Submit so many jobs at a rate (per second) during the block; leaving it waits until all are accepted.

        Of `failing` jobs one fails in its first attempt (0: none).
        """
        waiting: asyncio.Queue[int | None] = asyncio.Queue()
        async with asyncio.TaskGroup() as group, client(self.url) as http:
            submitters = [
                group.create_task(self._submit_all(http, waiting, seconds, failing)) for _ in range(SUBMITTERS)
            ]
            pacing = group.create_task(self._pace(waiting, count, rate))
            yield
            await pacing
            await asyncio.wait(submitters)

    async def submit(self, count: int, **options: Any) -> None:
        """Submit so many, as fast as it goes."""
        async with self.running(count, 10_000, **options):
            pass

    async def reached(self, count: int, limit: float = 60) -> None:
        """Wait until so many are accepted."""
        await eventually(lambda: len(self.accepted) >= count, limit)

    async def _pace(self, waiting: asyncio.Queue[int | None], count: int, rate: float) -> None:
        for _ in range(count):
            waiting.put_nowait(next(self._numbers))
            await asyncio.sleep(1 / rate)
        for _ in range(SUBMITTERS):
            waiting.put_nowait(None)

    async def _submit_all(
        self, http: httpx.AsyncClient, waiting: asyncio.Queue[int | None], seconds: float, failing: int
    ) -> None:
        while (number := await waiting.get()) is not None:
            body = {"seconds": seconds, "failures": int(bool(failing) and number % failing == 0)}
            await self._surely(http, f"{self._name}-{number}", {"type": TYPE, "input": body})
            if number % 7 == 0:  # some repeat a submission that was answered
                await self._surely(http, f"{self._name}-{number}", {"type": TYPE, "input": body})

    async def _surely(self, http: httpx.AsyncClient, key: str, body: dict[str, Any]) -> None:
        while True:
            try:
                answer = await http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
            except httpx.TransportError:
                self.answers[0] += 1
            else:
                self.answers[answer.status_code] += 1
                assert answer.status_code not in CERTAIN, answer.text
                if answer.status_code == 202:
                    return self._keep(key, answer.json()["id"])
            await asyncio.sleep(NAP)

    def _keep(self, key: str, job_id: str) -> None:
        known = self.accepted.setdefault(key, job_id)
        assert known == job_id or self.forgetful, f"{key}: {known} and {job_id}"
