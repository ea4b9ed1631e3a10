"""A running job is cancelled: it is asked, then stopped; a process is killed, a thread left behind."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Literal

import pytest

from consumers import Context
from consumers.registry import load
from tests.consumers.support import BEATING, TASKS, TENANT, Bench
from tests.support.process import alive
from tests.support.waiting import eventually

LONG = 60.0  # a grace nobody waits for in a test
SHORT = 0.2


@pytest.fixture(autouse=True)
def quick(bench: Bench) -> None:
    """Workers hear of it at their next heartbeat."""
    bench.settings = bench.with_settings(lease=BEATING)


async def cancelled(
    bench: Bench, type_: str, ready: Any, *, status: str = "cancelled", value: Any = None
) -> dict[str, Any]:
    """Submit, cancel once it is ready; returns the job when it has ended."""
    job_id = await bench.submit(type_, value=value)
    await bench.until(job_id, "running")
    await eventually(lambda: ready(job_id), 20)
    await bench.service.cancel(TENANT, job_id)
    return await bench.until(job_id, status, 20)


async def test_a_coroutine_that_looks_ends_by_itself(bench: Bench) -> None:
    heard: list[str] = []

    async def looking(ctx: Context, job_input: Any) -> str:
        del job_input
        heard.append("started")
        for _ in range(6000):
            await asyncio.sleep(0.01)
            if ctx.cancelled:
                break
        heard.append("tidied up")
        return "what there was"

    task = bench.task("looking", looking, cancel_grace=LONG)
    async with bench.working(task):
        job = await cancelled(bench, "looking", lambda _: heard, status="succeeded")
    assert (job["result"], heard) == ("what there was", ["started", "tidied up"])


async def test_progress_tells_a_task_too(bench: Bench) -> None:
    async def reporting(ctx: Context, job_input: Any) -> None:
        del job_input
        while True:
            ctx.progress(1)
            await asyncio.sleep(0.01)

    async with bench.working(bench.task("reporting", reporting, cancel_grace=LONG)):
        job = await cancelled(bench, "reporting", lambda _: True)
    assert job["error"] is None
    assert await bench.ends(job["id"]) == ["job.cancelled"]


@pytest.mark.parametrize("runs_in", ["loop", "thread"])
async def test_one_that_does_not_look_is_stopped_after_its_grace(
    bench: Bench, runs_in: Literal["loop", "thread"]
) -> None:
    started, end = asyncio.Event(), asyncio.Event()
    asked_at: list[float] = []
    loop = asyncio.get_running_loop()

    async def deaf(ctx: Context, job_input: Any) -> None:
        del ctx, job_input
        started.set()
        await asyncio.Event().wait()

    def deaf_thread(ctx: Context, job_input: Any) -> None:
        del job_input
        loop.call_soon_threadsafe(started.set)
        while not ctx.cancelled:
            time.sleep(0.01)
        asked_at.append(time.monotonic())
        while not end.is_set():
            time.sleep(0.01)

    function = deaf if runs_in == "loop" else deaf_thread
    async with bench.working(bench.task("deaf", function, cancel_grace=SHORT)):
        try:
            job = await cancelled(bench, "deaf", lambda _: started.is_set())
            if asked_at:
                assert time.monotonic() - asked_at[0] >= SHORT / 2
        finally:
            end.set()
    assert await bench.ends(job["id"]) == ["job.cancelled"]
    assert job["error"] is None


async def pid_of(bench: Bench, job_id: str) -> int:
    progress = (await bench.job(job_id))["progress"]
    return int(progress["message"]) if progress else 0


@pytest.mark.parametrize("name", ["process.polite", "process.stuck"])
async def test_a_process_is_asked_and_then_killed(bench: Bench, tmp_path: Path, name: str) -> None:
    tidied = tmp_path / "tidied"
    grace = LONG if name == "process.polite" else SHORT
    task = load(TASKS)[name]._replace(pool=bench.pool, cancel_grace=grace)
    pids: list[int] = []

    async def told(job_id: str) -> bool:
        pids[:] = [await pid_of(bench, job_id)]
        return bool(pids[0])

    async with bench.working(task):
        job = await cancelled(bench, name, told, value=str(tidied))
        await eventually(lambda: not alive(pids[0]))
    assert await bench.ends(job["id"]) == ["job.cancelled"]
    assert tidied.exists() == (name == "process.polite")
