"""Redis does not answer some calls: no job pays for another's, and a stop ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from consumers import Batch, Context, worker
from gateway.jobs.store import JobStore
from gateway.store.redis import Script
from tests.consumers.support import Bench, background
from tests.support.waiting import LIMIT, eventually


class Deaf(JobStore):
    """Nobody answers the calls that `hangs` is true of, each told as its script and the job."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.store)
        self.hangs: Callable[[str], bool] = lambda _: False
        self.hanging: set[str] = set()

    async def _gather(self, script: Script, tenant: str, **arguments: object) -> Any:
        await self._hear(f"{script.name} {arguments.get('id')}")
        return await super()._gather(script, tenant, **arguments)

    async def run_script(self, script: Script, tenant: str, **arguments: object) -> Any:
        await self._hear(f"{script.name} {arguments.get('id')}")
        return await super().run_script(script, tenant, **arguments)

    async def _hear(self, call: str) -> None:
        if self.hangs(call):
            self.hanging.add(call)
            await asyncio.Event().wait()


@pytest.fixture
async def deaf(bench: Bench) -> Deaf:
    bench.jobs = Deaf(bench)
    return bench.jobs


async def test_a_heartbeat_without_an_answer_holds_up_no_other(bench: Bench, deaf: Deaf) -> None:
    bench.settings = bench.with_settings(lease=0.6)
    gate = asyncio.Event()

    async def long(ctx: Context, job_input: Any) -> int:
        del job_input
        await gate.wait()
        return ctx.attempt

    async with bench.working(bench.task("long", long), reap=False):
        stuck, other = [await bench.submit("long") for _ in range(2)]
        for job_id in (stuck, other):
            await bench.until(job_id, "running")
        deaf.hangs = lambda call: call.endswith(f"heartbeat.lua {stuck}")
        await eventually(lambda: deaf.hanging)
        due = (await bench.due())[other]

        async def well_past() -> bool:
            return (await bench.due())[other] > due + 1.2

        await eventually(well_past)
        deaf.hangs = lambda _: False
        due = (await bench.due())[stuck]

        async def asked_again() -> bool:
            return (await bench.due())[stuck] > due

        await eventually(asked_again)
        gate.set()
        for job_id in (stuck, other):
            assert (await bench.until(job_id, "succeeded"))["attempt"] == 1


@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("ended", [False, True])
async def test_a_stop_ends_although_nobody_answers(
    bench: Bench, deaf: Deaf, monkeypatch: pytest.MonkeyPatch, *, ended: bool, batch: int
) -> None:
    monkeypatch.setattr(worker, "RECORD_LIMIT", 0.2)
    started, gate = asyncio.Event(), asyncio.Event()

    async def work(ctx: Context, job_input: Any) -> None:
        del ctx, job_input
        started.set()
        await gate.wait()

    async def works(items: Batch) -> None:
        started.set()
        await gate.wait()
        for item in items:
            item.succeed()

    function = works if batch else work
    task = bench.task("work", function, batch=batch, window=0.05)
    async with bench.working(task, reap=False, grace=0.1) as working:
        job_id = await bench.submit("work")
        await started.wait()
        deaf.hangs = lambda _: True
        if ended:
            gate.set()
            await eventually(lambda: any("advance" in call for call in deaf.hanging))
        working.stop()
        await asyncio.wait_for(working.stopped(), LIMIT)
    deaf.hangs = lambda _: False
    assert (await bench.job(job_id))["status"] == "running", "its lease recovers it"


async def test_a_thread_of_a_worker_that_is_torn_down_is_told(bench: Bench) -> None:
    told, started = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def long(ctx: Context, job_input: Any) -> None:
        del job_input
        loop.call_soon_threadsafe(started.set)
        while not ctx.cancelled:
            time.sleep(0.01)
        loop.call_soon_threadsafe(told.set)

    async with background(bench.worker(bench.task("long", long)).run()):
        await eventually(lambda: bench._knows([bench.task("long", long)]))
        await bench.submit("long")
        await started.wait()
    await asyncio.wait_for(told.wait(), LIMIT)
