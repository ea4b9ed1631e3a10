"""The worker between the queue and the store: claims, leases, fences, the bound, the stop."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from consumers import Context
from consumers.worker import ahead
from gateway.jobs.model import PRIORITIES
from gateway.jobs.records import Claim
from tests.consumers.support import TENANT, Bench, WatchedQueue, background
from tests.support.waiting import LIMIT, eventually

pytestmark = pytest.mark.usefixtures("no_backoff")


class Gated:
    """A task that tells when it runs, and ends when it may."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.started = 0
        self.running = 0
        self.peak = 0
        self.cancelled = 0

    async def __call__(self, ctx: Context, job_input: Any) -> Any:
        ctx.progress(1)
        self.started += 1
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return job_input


@pytest.fixture
async def gated() -> Gated:
    return Gated()


async def test_a_job_that_is_taken_over_is_left_alone(bench: Bench, local_queue: WatchedQueue, gated: Gated) -> None:
    bench.settings = bench.with_settings(lease=0.6)
    async with bench.working(bench.task("gated", gated.__call__, runs_in="loop"), reap=False):
        job_id = await bench.submit("gated")
        await eventually(lambda: gated.running == 1)
        await bench.lose_lease(job_id)
        theirs = await bench.jobs.claim(await bench.hand_over(job_id), token="theirs", lease=60, worker="other")
        assert isinstance(theirs, Claim)
        before = await bench.log(job_id)
        await eventually(lambda: gated.cancelled == 1)
    assert await bench.log(job_id) == before
    assert (await bench.job(job_id))["attempt"] == 2
    assert await local_queue.left(bench.pool) == 0  # acknowledged
    await bench.jobs.advance(TENANT, job_id, fence=theirs.fence, op=1, to="succeeded", result="1")
    assert await bench.ends(job_id) == ["job.succeeded"]


async def test_a_task_that_ends_after_it_was_taken_over_records_nothing(
    bench: Bench, local_queue: WatchedQueue, gated: Gated
) -> None:
    async with bench.working(bench.task("gated", gated.__call__, runs_in="loop"), reap=False):
        job_id = await bench.submit("gated", value="stale")
        await eventually(lambda: gated.running == 1)
        await bench.lose_lease(job_id)
        before = await bench.log(job_id)
        gated.gate.set()  # long before its next heartbeat
        await eventually(lambda: local_queue.handled == [job_id])
        assert await bench.log(job_id) == before
        assert (await bench.job(job_id))["status"] == "retrying"


async def test_heartbeats_keep_a_long_job_alive(bench: Bench, gated: Gated) -> None:
    bench.settings = bench.with_settings(lease=1)
    async with bench.working(bench.task("gated", gated.__call__, runs_in="loop")):
        job_id = await bench.submit("gated")
        await eventually(lambda: gated.running == 1)
        end = time.time() + 3  # three leases

        async def extended() -> bool:
            return (await bench.due()).get(job_id, 0) > end + 0.3

        await eventually(extended)
        gated.gate.set()
        job = await bench.until(job_id, "succeeded")
    assert (job["attempt"], gated.started, len(job["attempts"])) == (1, 1, 1)


@pytest.mark.parametrize("last", [False, True])
async def test_a_type_this_worker_does_not_know_is_refused_for_a_while(bench: Bench, *, last: bool) -> None:
    await bench.register("ghost", max_attempts=1 if last else 2)
    async with bench.working():
        job_id = await bench.submit("ghost")
        job = await bench.until(job_id, "failed" if last else "retrying")
    assert job["error"]["message"] == "this worker has no task 'ghost'"
    assert job["error"]["retryable"] is True
    if not last:
        assert (await bench.due())[job_id] == pytest.approx(time.time() + 10, abs=5)


async def test_the_tasks_of_another_pool_are_not_this_workers(bench: Bench, gated: Gated) -> None:
    other = bench.task("other", gated.__call__, runs_in="loop", pool="elsewhere")
    async with background(bench.worker(bench.task("gated", gated.__call__), other).run()):
        await eventually(lambda: bench.store.client.hexists(bench.tag + "types", "gated"))
        assert not await bench.store.client.hexists(bench.tag + "types", "other")


async def test_never_more_jobs_at_a_time_than_allowed(bench: Bench, local_queue: WatchedQueue, gated: Gated) -> None:
    async with bench.working(bench.task("gated", gated.__call__, runs_in="loop"), concurrency=2):
        ids = [await bench.submit("gated", priority=name) for name in ("bulk", "default", "critical") * 5]
        await eventually(lambda: gated.running == 2)
        # Of each class as many as can run and two more are delivered; the rest waits in the queue.
        assert await local_queue.depth(bench.pool) == dict.fromkeys(PRIORITIES, 5 - 2 - ahead(2))
        started = [(await bench.job(job_id))["started_at"] is not None for job_id in ids]
        assert sum(started) == 2
        gated.gate.set()
        for job_id in ids:
            await bench.until(job_id, "succeeded")
    assert gated.peak == 2


async def test_a_delivery_of_a_job_that_lives_or_has_ended_is_dropped(
    bench: Bench, local_queue: WatchedQueue, gated: Gated
) -> None:
    async with bench.working(bench.task("gated", gated.__call__, runs_in="loop"), reap=False):
        job_id = await bench.submit("gated")
        await eventually(lambda: gated.running == 1)
        again = await bench.message(job_id)
        await bench.queue.publish(again)
        await eventually(lambda: local_queue.handled == [job_id])
        gated.gate.set()
        await bench.until(job_id, "succeeded")
        await bench.queue.publish(again)
        await eventually(lambda: local_queue.handled == [job_id] * 3)
    assert gated.started == 1
    assert await bench.ends(job_id) == ["job.succeeded"]


async def test_a_job_that_redis_lost_is_rebuilt_from_its_message(
    bench: Bench, redis: Redis, local_queue: WatchedQueue, gated: Gated
) -> None:
    gated.gate.set()
    task = bench.task("gated", gated.__call__, runs_in="loop")
    await bench.queue.declare(bench.pool)
    await bench.register("gated")
    job_id = await bench.submit("gated", value=[1], owner="ann", channels=("news",))
    await redis.flushall()
    async with bench.working(task):
        await eventually(lambda: local_queue.handled == [job_id])
        job = await bench.until(job_id, "succeeded")
    assert (job["result"], job["owner"], job["channels"]) == ([1], "ann", ["news"])


async def test_a_task_longer_than_the_consumer_timeout_is_acknowledged_when_claimed(
    bench: Bench, local_queue: WatchedQueue, gated: Gated
) -> None:
    bench.settings = bench.with_settings(consumer_timeout=1)
    worker = bench.worker(bench.task("gated", gated.__call__, runs_in="loop"))
    async with background(worker.run()) as running:
        await eventually(lambda: bench.store.client.hexists(bench.tag + "types", "gated"))
        job_id = await bench.submit("gated")
        await eventually(lambda: gated.running == 1)
        running[0].cancel()  # as a crash: nothing is given back on purpose
        await asyncio.wait(running)
    assert await local_queue.left(bench.pool) == 0
    assert job_id in await bench.due()  # the lease owns it


async def test_a_stop_lets_quick_jobs_finish_and_starts_nothing_new(
    bench: Bench, local_queue: WatchedQueue, gated: Gated
) -> None:
    task = bench.task("gated", gated.__call__, runs_in="loop")
    async with bench.working(task, concurrency=1, grace=30, reap=False) as worker:
        ids = [await bench.submit("gated") for _ in range(3)]
        await eventually(lambda: gated.running == 1)
        worker.stop()
        gated.gate.set()
        async with asyncio.timeout(LIMIT):
            await worker.stopped()
    assert [(await bench.job(job_id))["status"] for job_id in ids] == ["succeeded", "queued", "queued"]
    assert gated.started == 1
    assert await local_queue.left(bench.pool) == 2


async def test_a_stop_gives_long_jobs_back_with_their_attempt(bench: Bench, gated: Gated) -> None:
    task = bench.task("gated", gated.__call__, runs_in="loop")
    async with bench.working(task, grace=0.05, reap=False) as worker:
        job_id = await bench.submit("gated")
        await eventually(lambda: gated.running == 1)
        worker.stop()
        async with asyncio.timeout(LIMIT):
            await worker.stopped()
    assert gated.cancelled == 1
    job = await bench.job(job_id)
    assert (job["status"], job["attempt"], job["error"], job["attempts"]) == ("retrying", 1, None, [])
    gated.gate.set()
    async with bench.working(task):
        job = await bench.until(job_id, "succeeded")
    assert (job["attempt"], len(job["attempts"])) == (1, 1)
    assert job["progress"]["done"] == 1
