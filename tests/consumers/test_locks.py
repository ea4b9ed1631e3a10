"""`ctx.lock`: one holder among jobs, kept by the heartbeat, lost with its lease; and workers cut off from Redis."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from consumers import Context, LockBusy
from gateway.store.locks import Locks
from tests.consumers.support import BEATING, Bench, WatchedQueue, background, open_bench
from tests.support.proxy import TcpProxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("no_backoff")


def key(bench: Bench) -> str:
    return bench.tag + "lock:default:l"


class Holder:
    """A task that holds the lock until it may go on."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.fences: list[int] = []
        self.cancelled = asyncio.Event()
        self.wait = 0.0

    async def __call__(self, ctx: Context, job_input: Any) -> Any:
        del job_input
        async with ctx.lock("l", wait=self.wait) as fence:
            self.fences.append(fence)
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return fence


@pytest.fixture
async def holder() -> Holder:
    return Holder()


async def test_holders_never_overlap_and_their_fences_grow(bench: Bench) -> None:
    inside, fences, most = 0, [], 0

    async def counting(ctx: Context, job_input: Any) -> Any:
        del job_input
        nonlocal inside, most
        async with ctx.lock("l", wait=30) as fence:
            fences.append(fence)
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    async with bench.working(bench.task("counting", counting), concurrency=8):
        ids = [await bench.submit("counting") for _ in range(12)]
        for job_id in ids:
            await bench.until(job_id, "succeeded", 30)
    assert most == 1
    assert len(fences) == 12
    assert fences == sorted(set(fences))


async def test_a_lock_that_is_taken_puts_the_job_back(bench: Bench, holder: Holder) -> None:
    async with bench.working(bench.task("holding", holder.__call__, runs_in="loop", max_attempts=1)):
        first = await bench.submit("holding")
        await eventually(lambda: holder.fences)
        second = await bench.submit("holding")
        job = await bench.until(second, "retrying")
        assert (job["attempt"], job["attempts"], job["error"]["type"]) == (1, [], "LockBusy")
        holder.gate.set()
        await bench.until(first, "succeeded")
        await bench.make_due(second)
        await bench.until(second, "succeeded")


async def test_the_heartbeat_keeps_it(bench: Bench, holder: Holder) -> None:
    bench.settings = bench.with_settings(lease=BEATING)

    async def until() -> int:
        return int(await bench.store.client.hget(key(bench), "until") or 0)

    async with bench.working(bench.task("holding", holder.__call__, runs_in="loop")):
        job_id = await bench.submit("holding")
        first = await eventually(until)

        async def well_past() -> bool:
            return await until() > first + 1200

        await eventually(well_past)
        assert not (await Locks(bench.store).take("default", "l", "somebody else", 60)).fence
        holder.gate.set()
        await bench.until(job_id, "succeeded")
    assert not await bench.store.client.hexists(key(bench), "owner")


async def test_a_lock_that_was_lost_cancels_the_task(bench: Bench, holder: Holder) -> None:
    bench.settings = bench.with_settings(lease=BEATING)
    async with bench.working(bench.task("holding", holder.__call__, runs_in="loop")):
        job_id = await bench.submit("holding")
        await eventually(lambda: holder.fences)
        await bench.store.client.hset(key(bench), "owner", "somebody else")
        await holder.cancelled.wait()
        await bench.store.client.hdel(key(bench), "owner")
        holder.gate.set()

        async def again() -> bool:
            await bench.make_due(job_id)
            return bool((await bench.job(job_id))["status"] == "succeeded")

        await eventually(again)
    job = await bench.job(job_id)
    assert job["attempts"][0]["error"]["type"] == "LockLost"
    assert job["attempts"][0]["error"]["retryable"] is True


async def test_a_lock_is_given_back_however_the_attempt_ends(bench: Bench) -> None:
    async def ending(ctx: Context, job_input: Any) -> Any:
        lock = ctx.lock("l")
        if job_input == "left open":
            await lock.__aenter__()
            return None
        async with lock:
            if job_input == "raises":
                raise ValueError("inside")
            await asyncio.sleep(60)

    ends = (("left open", "succeeded"), ("raises", "failed"), ("takes too long", "failed"))
    async with bench.working(bench.task("ending", ending, max_attempts=1, timeout=2)):
        for what, status in ends:
            await bench.until(await bench.submit("ending", value=what), status)
            assert not await bench.store.client.hexists(key(bench), "owner")


async def test_a_thread_may_hold_one_and_a_second_time_is_refused(bench: Bench) -> None:
    def holding(ctx: Context, job_input: Any) -> Any:
        del job_input
        with ctx.lock("l", ttl=30) as fence:
            with contextlib.suppress(LockBusy), ctx.lock("l"):
                pass
            return fence

    async with bench.working(bench.task("holding", holding)):
        job = await bench.until(await bench.submit("holding"), "failed")
    assert job["error"]["message"] == "this attempt has the lock 'l' already"


@pytest.mark.parametrize(
    ("ttl", "wait", "name"), [(1, 0, "l"), (1e9, 0, "l"), (30, -1, "l"), (30, float("nan"), "l"), (30, 0, "a b")]
)
async def test_rules_of_locks(bench: Bench, ttl: float, wait: float, name: str) -> None:
    async def holding(ctx: Context, job_input: Any) -> Any:
        del job_input
        async with ctx.lock(name, ttl=ttl, wait=wait):
            return None

    async with bench.working(bench.task("holding", holding)):
        job = await bench.until(await bench.submit("holding"), "failed")
    assert (job["error"]["type"], job["attempt"]) == ("GiveUp", 1)


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_a_thread_that_waits_for_a_lock_does_not_outlive_its_attempt(bench: Bench, how: str) -> None:
    bench.settings = bench.with_settings(lease=BEATING)
    await Locks(bench.store).take("default", "l", "somebody else", 60)
    ended = threading.Event()

    def waiting(ctx: Context, job_input: Any) -> Any:
        del job_input
        try:
            with ctx.lock("l", wait=3000):
                return None
        finally:
            ended.set()

    task = bench.task("waiting", waiting, max_attempts=1, timeout=60 if how == "cancelled" else 2)
    async with bench.working(task):
        job_id = await bench.submit("waiting")
        await bench.until(job_id, "running")
        if how == "cancelled":
            await bench.service.cancel("default", job_id)
            await bench.until(job_id, "cancelled")
        await eventually(ended.is_set)


async def test_a_worker_cut_off_from_redis_gives_up_its_lock_in_time(
    redis_server: RedisServer, redis: Redis, local_queue: WatchedQueue, pool: str, tmp_path: Path, holder: Holder
) -> None:
    del redis  # emptied
    async with TcpProxy(redis_server.port) as proxy:
        url = proxy.url(redis_server.url)
        async with open_bench(url, local_queue, pool, attachments_dir=str(tmp_path), lease=0.6) as bench:
            async with bench.working(bench.task("holding", holder.__call__, runs_in="loop"), reap=False):
                job_id = await bench.submit("holding")
                await eventually(lambda: holder.fences)
                proxy.cut()
                await holder.cancelled.wait()  # while Redis is out of reach
                proxy.resume()
                await bench.until(job_id, "retrying")
            assert (await bench.job(job_id))["attempts"][0]["error"]["type"] == "LockLost"


async def test_a_worker_that_was_cut_off_too_long_is_refused_and_its_task_cancelled(
    redis_server: RedisServer, redis: Redis, local_queue: WatchedQueue, pool: str, tmp_path: Path
) -> None:
    del redis  # emptied
    started: list[int] = []
    cancelled = asyncio.Event()

    async def working(ctx: Context, job_input: Any) -> Any:
        del job_input
        started.append(ctx.attempt)
        if ctx.attempt == 2:
            return "the second"
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with (
        TcpProxy(redis_server.port) as proxy,
        open_bench(proxy.url(redis_server.url), local_queue, pool, attachments_dir=str(tmp_path), lease=0.9) as far,
        open_bench(redis_server.url, local_queue, pool, attachments_dir=str(tmp_path)) as near,
        far.working(far.task("working", working), reap=False, concurrency=1),
    ):
        job_id = await near.submit("working")
        await eventually(lambda: started == [1])
        proxy.stall()  # as a network that swallows everything
        async with background(near.worker(near.task("working", working)).run(), near.reaper().run()):
            job = await near.until(job_id, "succeeded", 30)  # its lease has ended, and another did it
            assert not cancelled.is_set()
            proxy.resume()
            await cancelled.wait()
        assert await near.ends(job_id) == ["job.succeeded"]
    assert (job["result"], job["attempt"], started) == ("the second", 2, [1, 2])
    assert [attempt["error"] and attempt["error"]["type"] for attempt in job["attempts"]] == ["WorkerLost", None]
