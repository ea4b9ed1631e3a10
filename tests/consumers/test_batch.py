"""Batches: one call with many jobs, each with an outcome of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import chain
from typing import Any

import pytest

from consumers import Batch, GiveUp, Retry, task
from gateway.errors import ConfigurationError
from tests.consumers.batches import batched, submit
from tests.consumers.support import BEATING, Bench, WatchedQueue
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("no_backoff")


async def test_jobs_that_come_together_are_one_call_in_order(bench: Bench, local_queue: WatchedQueue) -> None:
    calls: list[list[int]] = []

    async def many(batch: Batch) -> None:
        calls.append([item.input for item in batch])
        for item in batch:
            item.ctx.progress(1, 1)
            item.succeed({"twice": item.input * 2})

    async with bench.working(batched(bench, many)):
        ids = await submit(bench, 13)
        jobs = [await bench.until(job_id, "succeeded") for job_id in ids]
        await eventually(lambda: len(local_queue.handled) == 13)
    assert [job["result"]["twice"] for job in jobs] == [2 * number for number in range(13)]
    assert max(calls, key=len) == list(range(10))
    assert list(chain(*calls)) == list(range(13))
    assert await bench.ends(ids[0]) == ["job.succeeded"]
    assert [job["progress"]["fraction"] for job in jobs] == [1] * 13
    assert await local_queue.left(bench.pool) == 0
    assert await bench.due() == {}


async def test_a_batch_waits_for_its_window_from_the_first_job_on_and_no_longer(bench: Bench) -> None:
    sizes: list[int] = []
    began = 0.0

    async def many(batch: Batch) -> None:
        sizes.append(len(batch))
        waited.append(asyncio.get_running_loop().time() - began)
        for item in batch:
            item.succeed()

    waited: list[float] = []
    async with bench.working(batched(bench, many, window=1.5)):
        began = asyncio.get_running_loop().time()
        for number in range(3):
            await bench.submit("many", value=number)
        await eventually(lambda: sizes == [3])
    assert waited[0] >= 1.5


async def test_each_job_has_its_own_outcome(bench: Bench) -> None:
    async def many(batch: Batch) -> None:
        for item in batch:
            match item.input, item.ctx.attempt:
                case 0, _:
                    item.succeed("fine")
                    item.fail(ValueError("too late"))
                case 1, _:
                    item.fail(GiveUp("never"))
                case 2, 1:
                    item.fail(Retry("later", after=0))
                case 3, 1:
                    item.fail(StopIteration())
                case 4, _:
                    item.succeed(object())
                case 5, 1:
                    pass
                case _:
                    item.succeed("at last")

    async with bench.working(batched(bench, many, batch=6)):
        ids = await submit(bench, 6)
        ends = ["succeeded", "failed", "succeeded", "succeeded", "failed", "succeeded"]
        jobs = [await bench.until(job_id, end) for job_id, end in zip(ids, ends, strict=True)]
    assert [job["attempt"] for job in jobs] == [1, 1, 2, 2, 1, 2]
    assert jobs[0]["result"] == "fine"
    assert jobs[1]["error"] == {"type": "GiveUp", "message": "never", "attempt": 1, "retryable": False}
    assert jobs[5]["attempts"][0]["error"]["type"] == "Unresolved"
    for job_id in ids:
        assert len(await bench.ends(job_id)) == 1


async def test_an_error_is_that_of_all_unresolved_jobs(bench: Bench) -> None:
    async def many(batch: Batch) -> None:
        if batch.items[0].ctx.attempt > 1:
            raise GiveUp("the second time")
        batch.items[1].succeed("done before")
        raise ValueError("the server hung up")

    async with bench.working(batched(bench, many, batch=3)):
        ids = await submit(bench, 3)
        assert (await bench.until(ids[1], "succeeded"))["attempt"] == 1
        for job_id in (ids[0], ids[2]):
            job = await bench.until(job_id, "failed")
            assert [attempt["error"]["message"] for attempt in job["attempts"]] == [
                "the server hung up",
                "the second time",
            ]


async def test_an_outcome_is_recorded_before_the_batch_has_ended(bench: Bench) -> None:
    gate = asyncio.Event()

    async def many(batch: Batch) -> None:
        batch.items[0].succeed()
        await gate.wait()
        batch.items[1].succeed()

    async with bench.working(batched(bench, many, batch=2)):
        ids = await submit(bench, 2)
        await bench.until(ids[0], "succeeded")
        assert (await bench.job(ids[1]))["status"] == "running"
        gate.set()
        await bench.until(ids[1], "succeeded")


async def test_one_job_is_cancelled_and_the_others_go_on(bench: Bench) -> None:
    gate = asyncio.Event()
    seen: list[list[bool]] = []

    async def many(batch: Batch) -> None:
        await gate.wait()
        seen.append([item.ctx.cancelled for item in batch])
        for item in batch:
            item.succeed("sent")

    bench.settings = bench.with_settings(lease=BEATING)
    async with bench.working(batched(bench, many, batch=3)):
        ids = await submit(bench, 3)
        for job_id in ids:
            await bench.until(job_id, "running")
        await bench.jobs.cancel("default", ids[1])
        job = await bench.until(ids[1], "cancelled")
        assert job["result"] is None
        gate.set()
        for job_id in (ids[0], ids[2]):
            await bench.until(job_id, "succeeded")
    assert seen == [[False, True, False]]


async def test_a_timeout_ends_the_call_and_every_unresolved_job(bench: Bench) -> None:
    ended: list[bool] = []

    async def many(batch: Batch) -> None:
        batch.items[0].succeed()
        try:
            await asyncio.sleep(600)
        finally:
            ended.append(True)

    async with bench.working(batched(bench, many, batch=3, timeout=2, max_attempts=1)):
        ids = await submit(bench, 3)
        await bench.until(ids[0], "succeeded")
        for job_id in ids[1:]:
            assert (await bench.until(job_id, "failed"))["error"]["type"] == "TaskTimeout"
        await eventually(lambda: ended == [True])


async def test_heartbeats_keep_every_job_of_a_long_batch(bench: Bench) -> None:
    calls = 0

    async def many(batch: Batch) -> None:
        nonlocal calls
        calls += 1
        await gate.wait()
        for item in batch:
            item.succeed()

    gate = asyncio.Event()
    bench.settings = bench.with_settings(lease=3)
    async with bench.working(batched(bench, many, batch=5)):
        ids = await submit(bench, 5)
        await eventually(lambda: calls)
        first = max((await bench.due()).values())

        async def a_lease_later() -> bool:
            return min((await bench.due()).values()) > first + 3

        await eventually(a_lease_later)
        gate.set()
        jobs = [await bench.until(job_id, "succeeded") for job_id in ids]
    assert (calls, [job["attempt"] for job in jobs]) == (1, [1] * 5)


async def test_a_plain_function_gets_its_batch_in_a_thread(bench: Bench) -> None:
    def many(batch: Batch) -> None:
        assert threading.current_thread() is not threading.main_thread()
        for item in batch:
            item.ctx.progress(1, 2)
            item.succeed(item.input)
            time.sleep(0.01)

    async with bench.working(batched(bench, many, batch=4)):
        jobs = [await bench.until(job_id, "succeeded") for job_id in await submit(bench, 4)]
    assert [job["result"] for job in jobs] == [0, 1, 2, 3]


async def test_a_job_that_ended_before_its_batch_starts_is_not_in_it(bench: Bench, local_queue: WatchedQueue) -> None:
    calls: list[list[int]] = []

    async def many(batch: Batch) -> None:
        calls.append([item.input for item in batch])
        for item in batch:
            item.succeed()

    async with bench.working(batched(bench, many, batch=4, window=60)):
        ids = await submit(bench, 3)
        await bench.jobs.cancel("default", ids[1])
        ids.append(await bench.submit("many", value=3))  # with it the batch is full
        for job_id in (ids[0], *ids[2:]):
            await bench.until(job_id, "succeeded")
        await eventually(lambda: len(local_queue.handled) == 4)
    assert calls == [[0, 2, 3]]


async def test_a_stop_lets_a_running_batch_end_and_gives_a_gathering_one_back(
    bench: Bench, local_queue: WatchedQueue
) -> None:
    gate = asyncio.Event()
    sizes: list[int] = []

    async def many(batch: Batch) -> None:
        sizes.append(len(batch))
        await gate.wait()
        for item in batch:
            item.succeed()

    async with bench.working(batched(bench, many, batch=2, window=30)) as worker:
        ids = await submit(bench, 3)
        await eventually(lambda: sizes == [2])
        worker.stop()
        gate.set()
        await worker.stopped()
        statuses = sorted([(await bench.job(job_id))["status"] for job_id in ids])
        assert statuses == ["queued", "succeeded", "succeeded"]
        assert await local_queue.left(bench.pool) == 1


async def test_a_stop_without_patience_gives_every_job_back_unburnt(bench: Bench) -> None:
    started = asyncio.Event()

    async def many(batch: Batch) -> None:
        started.set()
        await asyncio.sleep(600)
        del batch

    async with bench.working(batched(bench, many, batch=3), reap=False, grace=0.1) as worker:
        ids = await submit(bench, 3)
        await started.wait()
        worker.stop()
        await worker.stopped()
    for job_id in ids:
        job = await bench.job(job_id)
        assert (job["status"], job["attempt"]) == ("retrying", 1)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"batch": -1}, "batch must be"),
        ({"batch": 1001}, "batch must be"),
        ({"batch": 10, "window": 0}, "window must be"),
        ({"batch": 10, "window": 61}, "window must be"),
        ({"batch": 10, "processes": True}, "a batch cannot run in a process"),
    ],
)
def test_what_no_batch_can_be(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigurationError, match=rule):
        task("batch.wrong", **options)(lambda _: None)
