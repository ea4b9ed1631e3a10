"""What tasks, stops and outages must not do to a worker."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from consumers import severing, threads
from consumers.context import Cancelled, Context
from consumers.worker import WorkerStuck
from gateway.errors import RateLimited, StoreUnavailable
from gateway.jobs import consumption
from gateway.jobs.folder import FolderAttachments
from gateway.jobs.local import LocalQueue
from gateway.jobs.queue import Delivery, Message
from gateway.jobs.records import Claim
from gateway.jobs.store import JobStore
from gateway.settings import Settings
from tests.consumers.support import SLOW, Bench, WatchedQueue, background, open_bench
from tests.support.messages import PREFETCH, make_message
from tests.support.servers import RedisServer
from tests.support.waiting import LIMIT, eventually

HOSTILE = "tests.consumers.process_tasks"


@pytest.fixture
async def ctx(tmp_path: Path) -> Context:
    settings = Settings(redis_url="redis://:hunter2@x", root_key="gk_root_secret", webhook_allow=("10.0.0.0/8",))
    return Context(
        make_message("p", type="hostile"),
        5,
        settings,
        FolderAttachments(str(tmp_path), Settings().max_attachment_bytes),
    )


# --- errors ---


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_task_that_exits_has_failed_and_is_tried_again(bench: Bench, *, in_thread: bool) -> None:
    def leave(ctx: Context, job_input: Any) -> Any:
        if ctx.attempt == 1:
            sys.exit(3)
        return job_input

    async def leave_loop(ctx: Context, job_input: Any) -> Any:
        return leave(ctx, job_input)

    async with bench.working(bench.task("leave", leave if in_thread else leave_loop)):
        job = await bench.until(await bench.submit("leave", value=5), "succeeded")
    assert (job["attempt"], job["attempts"][0]["error"]["type"]) == (2, "SystemExit")


async def test_a_failing_handler_waits_before_its_message_comes_again(local_queue: LocalQueue, pool: str) -> None:
    at: list[float] = []

    async def handler(delivery: Delivery) -> None:
        at.append(time.monotonic())
        if len(at) == 1:
            raise RuntimeError("broken")
        await delivery.ack()

    await local_queue.declare(pool)
    await local_queue.publish(make_message(pool))
    async with local_queue.consume(pool, PREFETCH, handler):
        await eventually(lambda: len(at) == 2)
    assert at[1] - at[0] >= 0.5 * consumption.FAILED_NAP


class Refusing(JobStore):
    beats = 0

    async def heartbeat(self, tenant: str, job_id: str, fence: int, lease: float) -> bool:
        self.beats += 1
        if self.beats == 1:
            raise RateLimited
        return await super().heartbeat(tenant, job_id, fence, lease)


async def test_a_refused_heartbeat_is_a_missed_one(bench: Bench) -> None:
    store = bench.jobs = Refusing(bench.store)
    bench.settings = bench.with_settings(lease=0.6)

    async def slow(ctx: Context, job_input: Any) -> None:
        del ctx, job_input
        await eventually(lambda: store.beats > 1)

    async with bench.working(bench.task("slow", slow), reap=False):
        job = await bench.until(await bench.submit("slow"), "succeeded")
    assert job["attempt"] == 1


# --- stopping ---


class SlowClaim(JobStore):
    """The answer to a claim is on its way until the gate opens."""

    gate: asyncio.Event
    claimed = 0

    async def claim(self, message: Message, *, token: str, lease: float, worker: str) -> Claim | str:
        claim = await super().claim(message, token=token, lease=lease, worker=worker)
        self.claimed += 1
        await self.gate.wait()
        return claim


async def test_a_job_claimed_while_the_worker_stops_goes_back(bench: Bench) -> None:
    store = bench.jobs = SlowClaim(bench.store)
    store.gate = asyncio.Event()
    runs = 0

    async def quick(ctx: Context, job_input: Any) -> None:
        nonlocal runs
        del ctx, job_input
        runs += 1

    worker = bench.worker(bench.task("quick", quick))
    await bench.register("quick")
    await bench.queue.declare(bench.pool)
    async with background(worker.run()) as (running,):
        job_id = await bench.submit("quick")
        await eventually(lambda: store.claimed == 1)
        worker.stop()
        await asyncio.sleep(0.1)
        assert not running.done()
        store.gate.set()
        await asyncio.wait_for(worker.stopped(), LIMIT)
    job = await bench.job(job_id)
    assert (runs, job["status"], job["attempt"]) == (0, "retrying", 1)


@pytest.mark.parametrize("stops", [1, 2])
async def test_a_worker_stops_while_redis_is_away(
    own_redis: RedisServer, local_queue: WatchedQueue, pool: str, tmp_path: Path, stops: int
) -> None:
    async with open_bench(own_redis.url, local_queue, pool, attachments_dir=str(tmp_path)) as bench:
        started = asyncio.Event()

        async def long(ctx: Context, job_input: Any) -> None:
            del ctx, job_input
            started.set()
            await asyncio.sleep(3600)

        async with bench.working(bench.task("long", long), grace=0.1 if stops == 1 else 3600) as worker:
            await bench.submit("long")
            await started.wait()
            await asyncio.to_thread(own_redis.stop)
            await bench.queue.publish(make_message(pool, type="long"))  # its claim waits
            await asyncio.sleep(0.2)
            began = time.monotonic()
            for _ in range(stops):
                worker.stop()
            await asyncio.wait_for(worker.stopped(), LIMIT)
            assert stops == 2 or time.monotonic() - began >= 2


async def test_a_waiting_claim_ends_with_the_stop(bench: Bench) -> None:
    class Away(JobStore):
        asked = 0

        async def claim(self, message: Message, *, token: str, lease: float, worker: str) -> Claim | str:
            del message, token, lease, worker
            self.asked += 1
            raise StoreUnavailable

    store = bench.jobs = Away(bench.store)
    worker = bench.worker(grace=3600)
    async with background(worker.run()):
        await bench.queue.declare(bench.pool)
        await bench.queue.publish(make_message(bench.pool))
        await eventually(lambda: store.asked)
        worker.stop()
        await asyncio.wait_for(worker.stopped(), LIMIT)


async def deaf(ctx: Context, job_input: Any) -> None:
    ctx.progress(1)
    del job_input
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


@pytest.mark.usefixtures("no_backoff")
async def test_a_task_that_swallows_its_cancellation_times_out_and_stops(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(severing, "PATIENCE", 0.2)
    task = bench.task("deaf", deaf)
    async with bench.working(
        task._replace(timeout=0.2, max_attempts=1), task._replace(name="deafer"), grace=0
    ) as worker:
        job = await bench.until(await bench.submit("deaf"), "failed")
        assert job["error"]["type"] == "TaskTimeout"
        released = await bench.submit("deafer")
        await bench.until(released, "running")
        worker.stop()
        await asyncio.wait_for(worker.stopped(), LIMIT)
    assert (await bench.job(released))["attempt"] == 1


async def test_a_task_may_use_cancellation_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(severing, "PATIENCE", 0.05)

    async def polite() -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(10)
        await asyncio.sleep(0.2)  # longer than the patience with what was meant for it
        return "done"

    async def run() -> str:
        return await severing.Severable(polite())

    assert await asyncio.create_task(run()) == "done"


# --- threads ---


async def test_abandoned_threads_keep_their_slots_and_in_the_end_stop_the_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "STUCK_AFTER", 0.5)
    gate = threading.Event()
    ran: list[str] = []

    def hang(ctx: Context, job_input: Any) -> None:
        ran.append(ctx.job_id)
        if job_input:
            gate.wait(SLOW)

    task = bench.task("hang", hang, timeout=0.2, max_attempts=1)
    worker = bench.worker(task, concurrency=1)
    await bench.register("hang", max_attempts=1, limit=0.2)

    async def run() -> None:
        with pytest.raises(WorkerStuck):
            await worker.run()

    async with background(run()):
        await bench.queue.declare(bench.pool)
        hung = await bench.submit("hang", value=1)
        await bench.until(hung, "failed")
        waiting = await bench.submit("hang", value=0)
        await asyncio.wait_for(worker.stopped(), LIMIT)
        assert ran == [hung]
        assert (await bench.job(waiting))["status"] == "queued"
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("task-"))
    gate.set()


async def test_a_thread_that_ends_after_all_gives_its_slot_back(bench: Bench) -> None:
    gate = threading.Event()

    def hang(ctx: Context, job_input: Any) -> None:
        del ctx
        if job_input:
            gate.wait(SLOW)

    async with bench.working(bench.task("hang", hang, timeout=0.2, max_attempts=1), concurrency=1):
        await bench.until(await bench.submit("hang", value=1), "failed")
        waiting = await bench.submit("hang", value=0)
        gate.set()
        await bench.until(waiting, "succeeded")


async def test_attaching_to_a_job_that_is_no_longer_its_own_is_refused(ctx: Context) -> None:
    ctx.cancelled = True
    with pytest.raises(Cancelled):
        await ctx.attach("a.txt", b"", "text/plain")
    with pytest.raises(Cancelled):
        await asyncio.to_thread(ctx.attach_sync, "a.txt", b"", "text/plain")
