"""Attempts on a worker: what a task may be, how it can end, and what is recorded of it."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from datetime import datetime
from typing import Any

import pytest

from consumers import Context, GiveUp, Retry
from consumers.context import Cancelled
from consumers.registry import load
from tests.consumers.support import TASKS, Bench
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("no_backoff")

LOG = ["job.queued", "job.started"]


async def test_an_async_task_runs_in_the_loop(bench: Bench) -> None:
    loop = asyncio.get_running_loop()

    async def echo(ctx: Context, job_input: Any) -> Any:
        assert asyncio.get_running_loop() is loop
        return {"input": job_input, "job": ctx.job_id}

    async with bench.working(bench.task("echo", echo)):
        job_id = await bench.submit(value=[1, {"a": None}])
        job = await bench.until(job_id, "succeeded")
    assert job["result"] == {"input": [1, {"a": None}], "job": job_id}
    assert await bench.events(job_id) == [*LOG, "job.succeeded"]
    assert [attempt["error"] for attempt in job["attempts"]] == [None]
    assert await bench.due() == {}


async def test_a_plain_function_runs_in_a_thread(bench: Bench) -> None:
    def echo(ctx: Context, job_input: Any) -> Any:
        ctx.progress(1, 2)
        size = ctx.attach_sync("a.txt", b"abc", "text/plain")["size"]
        return [job_input, size, threading.current_thread() is threading.main_thread()]

    async with bench.working(bench.task("echo", echo)):
        job = await bench.until(await bench.submit(value="x"), "succeeded")
    assert job["result"] == ["x", 3, False]
    assert job["progress"]["fraction"] == 0.5


async def test_a_process_task_runs_in_a_process(bench: Bench) -> None:
    task = load(TASKS)["process.double"]._replace(pool=bench.pool)
    async with bench.working(task):
        job = await bench.until(await bench.submit("process.double", value=4), "succeeded", 60)
    assert job["result"]["twice"] == 8
    assert job["result"]["pid"] != os.getpid()
    assert job["progress"]["message"] == "half way"


async def test_a_process_that_dies_is_another_attempt(bench: Bench) -> None:
    task = load(TASKS)["process.raise"]._replace(pool=bench.pool, max_attempts=2)
    async with bench.working(task):
        job = await bench.until(await bench.submit("process.raise", value="exit"), "failed", 60)
    assert [attempt["error"]["type"] for attempt in job["attempts"]] == ["ProcessDied"] * 2
    assert job["error"]["message"] == "the task's process ended with code 7"


async def test_a_timeout_is_tried_again_and_then_failed(bench: Bench) -> None:
    started = 0

    async def slow(ctx: Context, job_input: Any) -> None:
        del ctx, job_input
        nonlocal started
        started += 1
        await asyncio.sleep(60)

    async with bench.working(bench.task("slow", slow, timeout=0.05, max_attempts=2)):
        job_id = await bench.submit("slow")
        job = await bench.until(job_id, "failed")
    assert started == 2
    error = {"type": "TaskTimeout", "message": "took longer than 0.05 s", "attempt": 2, "retryable": True}
    assert job["error"] == error
    again = ["job.retrying", *LOG]
    assert await bench.events(job_id) == [*LOG, *again, "job.failed"]


async def test_a_thread_that_takes_too_long_is_told_at_its_next_report(bench: Bench) -> None:
    told = threading.Event()

    def slow(ctx: Context, job_input: Any) -> None:
        del job_input
        try:
            while True:
                ctx.progress(1)
                time.sleep(0.01)
        except Cancelled:
            told.set()
            raise

    async with bench.working(bench.task("slow", slow, timeout=0.1, max_attempts=1)):
        job = await bench.until(await bench.submit("slow"), "failed")
        assert job["error"]["type"] == "TaskTimeout"
        await eventually(told.is_set)


@pytest.mark.parametrize(
    ("value", "message"),
    [(object(), "the result is not JSON: Encoding objects of type object"), ("\ud800", "the result is not JSON: ")],
)
async def test_a_result_that_is_not_json_fails_for_good(bench: Bench, value: object, message: str) -> None:
    async def odd(ctx: Context, job_input: Any) -> object:
        del ctx, job_input
        return value

    async with bench.working(bench.task("odd", odd)):
        job = await bench.until(await bench.submit("odd"), "failed")
    assert job["error"]["message"].startswith(message)
    assert (job["error"]["retryable"], job["attempt"]) == (False, 1)


@pytest.mark.parametrize(("size", "status"), [(1024 * 1024, "succeeded"), (1024 * 1024 + 1, "failed")])
async def test_a_result_may_have_a_mebibyte(bench: Bench, size: int, status: str) -> None:
    async def large(ctx: Context, job_input: Any) -> str:
        del ctx, job_input
        return "x" * (size - 2)  # and the quotes

    async with bench.working(bench.task("large", large)):
        job = await bench.until(await bench.submit("large"), status)
    if status == "failed":
        assert job["error"]["message"] == "the result has 1048577 bytes, more than 1048576"
    else:
        assert job["result"] is None
        result = await bench.jobs.result("default", job["id"])
        assert result is not None
        assert len(result.json or b"") == size


async def test_giving_up_and_asking_for_another_try(bench: Bench) -> None:
    async def picky(ctx: Context, job_input: Any) -> None:
        if ctx.attempt == 1:
            raise Retry("not yet", after=job_input)
        raise GiveUp("never")

    async with bench.working(bench.task("picky", picky)):
        later = await bench.submit("picky", value=3600)
        job = await bench.until(later, "retrying")
        assert (await bench.due())[later] == pytest.approx(time.time() + 3600, abs=30)
        assert job["error"] == {"type": "Retry", "message": "not yet", "attempt": 1, "retryable": True}
        job = await bench.until(await bench.submit("picky", value=0), "failed")
    assert job["error"] == {"type": "GiveUp", "message": "never", "attempt": 2, "retryable": False}


@pytest.mark.parametrize("after", [math.inf, math.nan])
async def test_a_time_that_is_none_does_not_lose_the_job(bench: Bench, after: float) -> None:
    async def odd(ctx: Context, job_input: Any) -> None:
        del ctx, job_input
        raise Retry("later", after=after)

    async with bench.working(bench.task("odd", odd)):
        job_id = await bench.submit("odd")
        await eventually(lambda: _left(bench, job_id, "running"), 3)


async def _left(bench: Bench, job_id: str, status: str) -> bool:
    events = await bench.events(job_id)
    return "job.started" in events and (await bench.job(job_id))["status"] != status


async def test_a_task_that_cancels_itself_is_an_error(bench: Bench) -> None:
    async def odd(ctx: Context, job_input: Any) -> None:
        del ctx, job_input
        raise asyncio.CancelledError

    async with bench.working(bench.task("odd", odd, max_attempts=1)):
        job = await bench.until(await bench.submit("odd"), "failed")
    assert job["error"]["type"] == "TaskCancelled"


async def test_progress_is_throttled_and_the_last_one_is_in_the_terminal_event(bench: Bench) -> None:
    async def counting(ctx: Context, job_input: Any) -> str:
        del job_input
        for done in range(1, 301):
            ctx.progress(done, 300, f"step {done}")
            await asyncio.sleep(0.001)
        return "done"

    async with bench.working(bench.task("counting", counting)):
        job_id = await bench.submit("counting")
        await bench.until(job_id, "succeeded")
    log = await bench.log(job_id)
    reports = [event for event in log if event["type"] == "job.progress"]
    seconds = _seconds(log[-1]["time"]) - _seconds(log[0]["time"])
    assert 1 <= len(reports) <= 2 + seconds / 0.1
    assert log[-1]["data"]["progress"] == {"done": 300, "total": 300, "fraction": 1, "message": "step 300"}


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


async def test_progress_of_a_failing_attempt_is_kept_too(bench: Bench) -> None:
    async def failing(ctx: Context, job_input: Any) -> None:
        del job_input
        ctx.progress(7, 10)
        raise GiveUp("no")

    async with bench.working(bench.task("failing", failing)):
        job = await bench.until(await bench.submit("failing"), "failed")
    assert job["progress"]["done"] == 7


@pytest.mark.parametrize("reports", [True, False])
async def test_cancelling_a_running_job_cancels_its_task(bench: Bench, *, reports: bool) -> None:
    heard = asyncio.Event()
    bench.settings = bench.with_settings(lease=2)

    async def stuck(ctx: Context, job_input: Any) -> None:
        del job_input
        try:
            while True:
                if reports:
                    ctx.progress(1)
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            heard.set()
            raise

    async with bench.working(bench.task("stuck", stuck)):
        job_id = await bench.submit("stuck")
        await bench.until(job_id, "running")
        await bench.service.cancel("default", job_id)
        job = await bench.until(job_id, "cancelled")
    assert heard.is_set()
    assert job["error"] is None
    assert await bench.ends(job_id) == ["job.cancelled"]


async def test_a_cancelled_job_that_cannot_be_stopped_in_time_may_still_succeed(bench: Bench) -> None:
    bench.settings = bench.with_settings(lease=2)

    async def stubborn(ctx: Context, job_input: Any) -> str:
        del ctx, job_input
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "done all the same"
        return "never"

    async with bench.working(bench.task("stubborn", stubborn)):
        job_id = await bench.submit("stubborn")
        await bench.until(job_id, "running")
        await bench.service.cancel("default", job_id)
        job = await bench.until(job_id, "succeeded")
    assert job["result"] == "done all the same"
