"""Undoing on a worker whose time it is not: overtaken, stopped, cancelled, cut off, or by an undo that misbehaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from consumers import Context, GiveUp, undo
from gateway.errors import StaleFence
from gateway.jobs.store import JobStore
from tests.consumers.support import TENANT, Bench
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("no_backoff", "own_undos")

Undoing = Callable[[Context], Awaitable[None]]


class Takes:
    """A task with steps to take back, and what its undos did: `slow` for the step done last."""

    def __init__(self, slow: Undoing, **options: Any) -> None:
        self.calls: list[str] = []
        self.started = asyncio.Event()

        @undo("slow", **options)
        async def slow_undo(ctx: Context, result: Any) -> None:
            del result
            self.calls.append("slow")
            self.started.set()
            await slow(ctx)

        @undo("quick")
        async def quick_undo(ctx: Context, result: Any) -> None:
            del ctx, result
            self.calls.append("quick")

    async def saga(self, ctx: Context, job_input: Any) -> None:
        del job_input
        await ctx.step("first", lambda: None, undo="quick")
        await ctx.step("last", lambda: None, undo="slow")
        raise GiveUp("no")


async def test_a_worker_that_is_overtaken_while_it_undoes_leaves_the_job_alone(bench: Bench) -> None:
    bench.settings = bench.with_settings(lease=0.6)
    told: list[bool] = []

    async def slow(ctx: Context) -> None:
        if len(takes.calls) == 1:
            try:
                await asyncio.Event().wait()
            finally:
                told.append(True)
        assert not ctx.cancelled

    takes = Takes(slow)
    async with bench.working(bench.task("saga", takes.saga)):
        job_id = await bench.submit("saga")
        await takes.started.wait()
        await bench.lose_lease(job_id)
        await eventually(lambda: told)
        job = await bench.until(job_id, "failed")
    assert takes.calls == ["slow", "slow", "quick"]
    assert (job["error"]["message"], await bench.ends(job_id)) == ("no", ["job.failed"])


@pytest.mark.parametrize("held", [True, False])
async def test_the_heartbeat_keeps_the_undoing_and_reports_in_it_are_ignored(bench: Bench, *, held: bool) -> None:
    bench.settings = bench.with_settings(lease=0.5)

    async def slow(ctx: Context) -> None:
        for number in range(20):
            ctx.progress(number, 20)
            await asyncio.sleep(0.06)

    takes = Takes(slow)

    async def again(ctx: Context, job_input: Any) -> None:
        with pytest.raises(GiveUp):
            await takes.saga(ctx, job_input)
        raise OSError("another attempt")

    task = bench.task("saga", takes.saga if held else again)
    if held:
        async with bench.working(task):
            job_id = await bench.submit("saga")
            job = await bench.until(job_id, "failed")
    else:
        async with bench.working(task, reap=False):
            job_id = await bench.submit("saga")
            await bench.until(job_id, "retrying")
        await bench.service.cancel(TENANT, job_id)
        async with bench.working(task):
            job = await bench.until(job_id, "cancelled")
    assert (takes.calls, job["progress"]) == (["slow", "quick"], None)
    assert await bench.due() == {}


class Late(JobStore):
    """Redis tells of a cancellation, and the answer is late."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.store)
        self.told, self.gate, self.arrived = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def heartbeat(self, tenant: str, job_id: str, fence: int, lease: float) -> bool:
        cancelling = await super().heartbeat(tenant, job_id, fence, lease)
        if cancelling and not self.arrived.is_set():
            self.told.set()
            await self.gate.wait()
            self.arrived.set()
        return cancelling


async def test_the_grace_of_the_task_is_not_that_of_its_undos(bench: Bench) -> None:
    bench.settings = bench.with_settings(lease=0.6)
    store = bench.jobs = Late(bench)

    async def slow(ctx: Context) -> None:
        store.gate.set()
        await store.arrived.wait()
        await asyncio.sleep(0.2)  # ten times the grace
        assert not ctx.cancelled

    takes = Takes(slow)

    async def saga(ctx: Context, job_input: Any) -> None:
        with pytest.raises(GiveUp):
            await takes.saga(ctx, job_input)
        await store.told.wait()
        raise GiveUp("no")

    async with bench.working(bench.task("saga", saga, cancel_grace=0.02)):
        job_id = await bench.submit("saga")

        async def both() -> bool:
            return len((await bench.job(job_id)).get("steps", [])) == 2

        await eventually(both)
        await bench.service.cancel(TENANT, job_id)
        await bench.until(job_id, "cancelled")
    assert takes.calls == ["slow", "quick"]


class Refused(JobStore):
    """A heartbeat comes between the end of a job and its worker's hearing of it, and is refused."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.store)
        self.refused = asyncio.Event()

    async def heartbeat(self, tenant: str, job_id: str, fence: int, lease: float) -> bool:
        try:
            return await super().heartbeat(tenant, job_id, fence, lease)
        except StaleFence:
            asyncio.get_running_loop().call_soon(self.refused.set)
            raise

    async def advance(self, *which: Any, **facts: Any) -> tuple[int, str]:
        answer = await super().advance(*which, **facts)
        if answer[1] == "failed":
            await self.refused.wait()
        return answer


async def test_a_heartbeat_that_meets_the_end_of_the_undoing_tells_nothing(bench: Bench) -> None:
    bench.settings = bench.with_settings(lease=0.3)
    bench.jobs = Refused(bench)

    async def slow(ctx: Context) -> None:
        del ctx

    with capture_logs() as logs:
        async with bench.working(bench.task("saga", Takes(slow).saga)) as worker:
            await bench.until(await bench.submit("saga"), "failed")
            worker.stop()
            await worker.stopped()
    assert "attempt.overtaken" not in [entry["event"] for entry in logs]


@pytest.mark.parametrize("kind", ["TaskCancelled", "LockLost"])
async def test_an_undo_that_is_cut_off_has_failed(bench: Bench, kind: str) -> None:
    bench.settings = bench.with_settings(lease=0.6)

    async def slow(ctx: Context) -> None:
        if kind == "TaskCancelled":
            raise asyncio.CancelledError
        async with ctx.lock("l"):
            await bench.store.client.delete(bench.tag + f"lock:{TENANT}:l")
            await asyncio.Event().wait()

    takes = Takes(slow, max_attempts=2)
    async with bench.working(bench.task("saga", takes.saga)):
        job = await bench.until(await bench.submit("saga"), "failed")
    assert takes.calls == ["slow", "slow"]
    assert (job["error"]["type"], kind in job["error"]["message"]) == ("CompensationFailed", True)


async def test_a_worker_that_stops_begins_no_further_undo(bench: Bench) -> None:
    async def slow(ctx: Context) -> None:
        del ctx
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return  # done all the same

    takes = Takes(slow)
    task = bench.task("saga", takes.saga)
    async with bench.working(task, grace=0.05, reap=False) as worker:
        job_id = await bench.submit("saga")
        await takes.started.wait()
        worker.stop()
        await worker.stopped()
    job = await bench.job(job_id)
    assert (takes.calls, job["status"], job["attempt"]) == (["slow"], "retrying", 1)
    async with bench.working(task):
        await bench.until(job_id, "failed")
    assert takes.calls == ["slow", "quick"]


async def test_a_stop_leaves_an_undo_in_a_thread_and_tells_it(bench: Bench) -> None:
    calls: list[bool] = []
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    @undo("blocking")
    def blocking(ctx: Context, result: Any) -> None:
        del result
        loop.call_soon_threadsafe(started.set)
        while not (calls or ctx.cancelled):
            time.sleep(0.01)
        calls.append(ctx.cancelled)

    async def saga(ctx: Context, job_input: Any) -> None:
        del job_input
        await ctx.step("a", lambda: None, undo="blocking")
        raise GiveUp("no")

    task = bench.task("saga", saga)
    async with bench.working(task, grace=0.05, reap=False) as worker:
        job_id = await bench.submit("saga")
        await started.wait()
        worker.stop()
        await worker.stopped()
        await eventually(lambda: calls == [True])
    assert (await bench.job(job_id))["status"] == "retrying"
    async with bench.working(task):
        await bench.until(job_id, "failed")
    assert calls == [True, False]
