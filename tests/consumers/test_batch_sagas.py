"""Jobs of a batch with steps, children, snoozes and cancellations: each by itself."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from consumers import Batch, Cancelled, Context, GiveUp, Snooze, undo
from tests.consumers.batches import batched, submit
from tests.consumers.support import TENANT, Bench
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("no_backoff", "own_undos")


async def test_each_job_has_its_own_steps_effects_and_children(bench: Bench) -> None:
    undone: list[str] = []
    sent: list[str] = []

    @undo("take-back")
    async def take_back(ctx: Context, result: Any) -> None:
        undone.append(f"{result} {ctx.undoing}")

    async def note(key: str) -> None:
        sent.append(key)

    async def child(ctx: Context, job_input: Any) -> None:
        del ctx, job_input

    async def many(batch: Batch) -> None:
        for item in batch:
            number = item.input
            await item.ctx.step("reserve", partial(int, number), undo="take-back")
            await item.ctx.once("mail", note)
            await item.ctx.spawn("child")
            if number == 1:
                item.fail(GiveUp("out of stock"))
            elif item.ctx.attempt == 1:
                item.fail(OSError("again"))
            else:
                item.succeed()

    async with bench.working(batched(bench, many, batch=3, window=0.2), bench.task("child", child)):
        ids = await submit(bench, 3)
        for job_id, status in zip(ids, ["succeeded", "failed", "succeeded"], strict=True):
            job = await bench.until(job_id, status)
            children, _ = await bench.jobs.find(TENANT, limit=10, parent=job_id)
            assert (len(children), len(job["steps"])) == (1, 1)
    assert undone == ["1 reserve"]
    assert len(sent) == len(set(sent)) == 3


async def test_a_job_of_a_batch_cannot_wait_for_children(bench: Bench) -> None:
    async def many(batch: Batch) -> None:
        for item in batch:
            try:
                await item.ctx.gather(await item.ctx.spawn("many"))
            except GiveUp as error:
                item.fail(error)

    async with bench.working(batched(bench, many, batch=2, window=0.1)):
        job = await bench.until(await bench.submit("many"), "failed")
        assert job["error"]["message"].startswith("a job of a batch cannot wait for children")


async def test_a_snoozed_job_comes_again_and_the_others_go_on(bench: Bench) -> None:
    calls: list[list[int]] = []

    async def many(batch: Batch) -> None:
        calls.append([item.input for item in batch])
        for item in batch:
            if item.input == 1 and len(calls) == 1:
                item.fail(Snooze("not yet", after=0))
            else:
                item.succeed()

    async with bench.working(batched(bench, many, batch=3, window=0.2)):
        jobs = [await bench.until(job_id, "succeeded") for job_id in await submit(bench, 3)]
    assert calls == [[0, 1, 2], [1]]
    assert [job["attempt"] for job in jobs] == [1, 1, 1]


async def test_a_cancelled_job_has_its_grace_and_the_others_notice_nothing(bench: Bench) -> None:
    bench.settings = bench.with_settings(lease=0.6)

    async def many(batch: Batch) -> None:
        first, second, third = batch.items
        await eventually(lambda: second.ctx.cancelled and third.ctx.cancelled)
        second.fail(Cancelled("heard it"))
        third.succeed("done by then")
        first.succeed()

    async with bench.working(batched(bench, many, batch=3, cancel_grace=60)):
        ids = await submit(bench, 3)
        for job_id in ids:
            await bench.until(job_id, "running")
        for job_id in ids[1:]:
            await bench.service.cancel(TENANT, job_id)
        await bench.until(ids[1], "cancelled")
        assert (await bench.until(ids[2], "succeeded"))["result"] == "done by then"
        await bench.until(ids[0], "succeeded")


async def test_a_batch_does_not_wait_for_a_job_that_is_only_undone(bench: Bench) -> None:
    gate, undoing = asyncio.Event(), asyncio.Event()
    calls: list[list[str]] = []

    @undo("slow")
    async def slow(ctx: Context, result: Any) -> None:
        del ctx, result
        undoing.set()
        await gate.wait()

    async def many(batch: Batch) -> None:
        calls.append([item.input for item in batch])
        for item in batch:
            if item.input == "to undo":
                await item.ctx.step("a", lambda: None, undo="slow")
                item.fail(OSError("another attempt"))
            else:
                item.succeed()

    task = batched(bench, many, batch=2, window=0.05)
    async with bench.working(task, reap=False):
        turned = await bench.submit("many", value="to undo")
        await bench.until(turned, "retrying")
    await bench.service.cancel(TENANT, turned)
    async with bench.working(task._replace(window=60)):
        other = await bench.submit("many", value="other")
        await bench.until(other, "succeeded")
        await undoing.wait()
        gate.set()
        await bench.until(turned, "cancelled")
    assert calls == [["to undo"], ["other"]]
