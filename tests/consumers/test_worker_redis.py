"""Redis misbehaves while jobs run: what was done is recorded once, when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from consumers import Context
from gateway.errors import StoreUnavailable
from gateway.jobs.queue import Message
from gateway.jobs.records import Claim
from gateway.jobs.store import JobStore
from tests.consumers.support import Bench, WatchedQueue, background, open_bench
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("no_backoff")


@pytest.fixture
async def own_bench(
    own_redis: RedisServer, local_queue: WatchedQueue, pool: str, tmp_path: Path
) -> AsyncIterator[Bench]:
    async with open_bench(own_redis.url, local_queue, pool, attachments_dir=str(tmp_path)) as bench:
        yield bench


class Gated:
    """A task that tells when it runs, and ends when it may."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.started = 0
        self.ended = 0

    async def __call__(self, ctx: Context, job_input: Any) -> Any:
        self.started += 1
        await self.gate.wait()
        ctx.progress(1, 1, "done")
        self.ended += 1
        return job_input


@pytest.fixture
async def gated() -> Gated:
    return Gated()


async def test_what_ended_while_redis_was_away_is_recorded_when_it_is_back(
    own_redis: RedisServer, own_bench: Bench, gated: Gated
) -> None:
    bench = own_bench
    task = bench.task("gated", gated.__call__, runs_in="loop")
    async with bench.working(task):
        ids = [await bench.submit("gated", value=number) for number in range(3)]
        await eventually(lambda: gated.started == 3)
        await asyncio.to_thread(own_redis.stop)
        gated.gate.set()
        await eventually(lambda: gated.ended == 3)
        await asyncio.to_thread(own_redis.start)
        for number, job_id in enumerate(ids):
            job = await bench.until(job_id, "succeeded")
            assert (job["result"], job["attempt"], job["progress"]["fraction"]) == (number, 1, 1)
            assert await bench.ends(job_id) == ["job.succeeded"]
    assert gated.started == 3


async def test_heartbeats_missed_while_redis_was_away_do_not_end_the_job(
    own_redis: RedisServer, own_bench: Bench, gated: Gated
) -> None:
    bench = own_bench
    bench.settings = bench.with_settings(lease=1.5)
    async with bench.working(bench.task("gated", gated.__call__, runs_in="loop"), reap=False):
        job_id = await bench.submit("gated")
        await eventually(lambda: gated.started == 1)
        await asyncio.to_thread(own_redis.stop)
        await asyncio.sleep(0.8)  # longer than a heartbeat: that one is missed
        await asyncio.to_thread(own_redis.start)
        due = (await bench.due())[job_id]

        async def beaten() -> bool:
            return (await bench.due())[job_id] > due

        await eventually(beaten)
        gated.gate.set()
        await bench.until(job_id, "succeeded")
    assert gated.started == 1


async def test_a_worker_waits_for_redis_and_then_takes_what_waits(
    own_redis: RedisServer, own_bench: Bench, local_queue: WatchedQueue, gated: Gated
) -> None:
    bench = own_bench
    gated.gate.set()
    await bench.register("gated")
    await bench.queue.declare(bench.pool)
    job_id = await bench.submit("gated")
    await asyncio.to_thread(own_redis.stop)

    async def delivered() -> bool:
        return await local_queue.left(bench.pool) == 0

    async with background(bench.worker(bench.task("gated", gated.__call__, runs_in="loop")).run()):
        await eventually(delivered)
        await asyncio.to_thread(own_redis.start)
        await eventually(lambda: local_queue.handled == [job_id])
    assert (await bench.job(job_id))["status"] == "succeeded"


class LostAnswers(JobStore):
    """Redis does everything, and its first answer to each question is lost on the way."""

    lost = 0

    async def claim(self, message: Message, *, token: str, lease: float, worker: str) -> Claim | str:
        claim = await super().claim(message, token=token, lease=lease, worker=worker)
        self._lose("claim", message.attempt)
        return claim

    async def advance(
        self, tenant: str, job_id: str, *, fence: int, op: int, to: str, **facts: object
    ) -> tuple[int, str]:
        answer = await super().advance(tenant, job_id, fence=fence, op=op, to=to, **facts)
        self._lose(to, fence)
        return answer

    def _lose(self, *question: object) -> None:
        asked = self.__dict__.setdefault("asked", set())
        if question not in asked:
            asked.add(question)
            self.lost += 1
            raise StoreUnavailable


async def test_lost_answers_repeat_nothing(bench: Bench) -> None:
    store = bench.jobs = LostAnswers(bench.store)
    runs = 0

    async def flaky(ctx: Context, job_input: Any) -> Any:
        nonlocal runs
        runs += 1
        ctx.progress(1)
        await asyncio.sleep(0.02)  # so that the report is recorded on its own
        if ctx.attempt == 1:
            raise ValueError("once")
        return job_input

    async with bench.working(bench.task("flaky", flaky)):
        job_id = await bench.submit("flaky", value=5)
        job = await bench.until(job_id, "succeeded")
    assert store.lost == 6  # per attempt: a claim, a report, an end
    assert (runs, job["result"], job["attempt"]) == (2, 5, 2)
    attempt = ["job.queued", "job.started", "job.progress"]
    assert await bench.events(job_id) == [*attempt, "job.retrying", *attempt, "job.succeeded"]


async def fill(bench: Bench, *, full: bool) -> None:
    await bench.store.client.config_set("maxmemory", "1" if full else "0")


async def test_a_redis_that_is_full_does_not_kill_messages(
    own_bench: Bench, local_queue: WatchedQueue, gated: Gated
) -> None:
    bench = own_bench
    gated.gate.set()
    await bench.register("gated")
    await bench.queue.declare(bench.pool)
    job_id = await bench.submit("gated")
    await fill(bench, full=True)
    async with background(bench.worker(bench.task("gated", gated.__call__, runs_in="loop")).run()):
        await asyncio.sleep(1)  # for so long nothing can be written
        assert [dead.message.id for dead in local_queue.dead] == []
        await fill(bench, full=False)
        await bench.until(job_id, "succeeded")


async def test_what_ended_while_redis_was_full_is_recorded_when_there_is_room(own_bench: Bench, gated: Gated) -> None:
    bench = own_bench
    async with bench.working(bench.task("gated", gated.__call__, runs_in="loop"), reap=False):
        job_id = await bench.submit("gated")
        await eventually(lambda: gated.started == 1)
        await fill(bench, full=True)
        gated.gate.set()
        await eventually(lambda: gated.ended == 1)
        await asyncio.sleep(0.5)  # for so long nothing can be written
        await fill(bench, full=False)
        await bench.until(job_id, "succeeded", 5)
