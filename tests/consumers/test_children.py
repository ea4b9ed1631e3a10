"""Children on a real worker: spawned once, waited for without a worker, told to their parent in the moment they end."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest

from consumers import ChildFailed, ChildrenLate, Context, undo
from gateway.jobs import steps
from tests.consumers.families import family, id_of, the_children
from tests.consumers.support import BEATING, TENANT, Bench
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("no_backoff")


async def test_a_parent_waits_without_a_worker_and_gets_the_results_in_order(bench: Bench) -> None:
    calls = 0

    async def parent(ctx: Context, job_input: Any) -> Any:
        nonlocal calls
        calls += 1
        children = [await ctx.spawn("child", number) for number in job_input]
        return await ctx.gather(*reversed(children))

    async with bench.working(*family(bench, parent), concurrency=1):  # while it waits, its slot is free
        job_id = await bench.submit("parent", value=[1, 2, 3], owner="ann")
        job = await bench.until(job_id, "succeeded")
    assert (job["result"], calls) == ([6, 4, 2], 2)
    assert (job["attempt"], len(job["attempts"])) == (1, 1)
    events = [event for event in await bench.events(job_id) if event != "job.progress"]
    assert events == ["job.queued", "job.started", "job.waiting", "job.queued", "job.started", "job.succeeded"]
    assert job["progress"] == {"done": 3, "total": 3, "fraction": 1, "message": None}
    children = await the_children(bench)
    assert [(child["parent"], child["owner"], child["trace_id"]) for child in children] == [
        (job_id, "ann", job["trace_id"])
    ] * 3
    assert await bench.due() == {}


async def test_a_parent_that_is_tried_again_has_the_same_children(bench: Bench) -> None:
    async def parent(ctx: Context, job_input: Any) -> Any:
        del job_input
        children = [await ctx.spawn("child", 1), await ctx.spawn("child", 2, name="second")]
        if ctx.attempt == 1:
            raise OSError("no luck")
        return [children, await ctx.gather(*children)]

    async with bench.working(*family(bench, parent)):
        job = await bench.until(await bench.submit("parent"), "succeeded")
    ids, results = job["result"]
    assert results == [2, 4]
    assert {child["id"] for child in await the_children(bench)} == set(ids)


async def test_children_that_have_ended_already_are_not_waited_for(bench: Bench) -> None:
    async def parent(ctx: Context, job_input: Any) -> Any:
        del job_input
        child = await ctx.spawn("child", 4)
        await bench.until(child, "succeeded")
        return await ctx.gather(child)

    async with bench.working(*family(bench, parent)):
        job_id = await bench.submit("parent")
        assert (await bench.until(job_id, "succeeded"))["result"] == [8]
    assert "job.waiting" not in await bench.events(job_id)


async def test_a_failed_child_fails_its_parent_unless_it_is_asked_for(bench: Bench) -> None:
    async def parent(ctx: Context, job_input: Any) -> Any:
        children = [await ctx.spawn("child", 1), await ctx.spawn("child", "fail")]
        found = await ctx.gather(*children, return_exceptions=job_input)
        assert isinstance(found[1], ChildFailed)
        return [found[0], found[1].status, found[1].error["message"], found[1].child == children[1]]

    async with bench.working(*family(bench, parent)):
        asked = await bench.until(await bench.submit("parent", value=True), "succeeded")
        other = await bench.until(await bench.submit("parent", value=False), "failed")
    assert asked["result"] == [2, "failed", "as told", True]
    assert (other["error"]["type"], other["attempt"]) == ("ChildFailed", 1)
    assert other["error"]["message"].endswith("failed: GiveUp: as told")


async def test_failing_fast_does_not_wait_for_the_others_and_ends_them(bench: Bench) -> None:
    bench.settings = bench.with_settings(lease=BEATING)

    async def parent(ctx: Context, job_input: Any) -> Any:
        del job_input
        children = [await ctx.spawn("child", "wait"), await ctx.spawn("child", "fail")]
        return await ctx.gather(*children, fail_fast=True)

    async with bench.working(*family(bench, parent)):
        job = await bench.until(await bench.submit("parent"), "failed")
        by_status = {child["status"] == "failed": child for child in await the_children(bench)}
        await bench.until(by_status[False]["id"], "cancelled")
    assert by_status[True]["id"] in job["error"]["message"]


async def test_cancelling_a_waiting_parent_cancels_its_open_children_and_theirs(bench: Bench) -> None:
    bench.settings = bench.with_settings(lease=BEATING)

    async def parent(ctx: Context, job_input: Any) -> Any:
        kind, value = ("parent", job_input - 1) if job_input else ("child", "wait")
        return await ctx.gather(await ctx.spawn(kind, value), await ctx.spawn("child", "wait"))

    async with bench.working(*family(bench, parent), concurrency=10):
        job_id = await bench.submit("parent", value=2)

        async def all_wait() -> bool:
            return [child["status"] for child in await the_children(bench)] == ["running"] * 4

        await eventually(all_wait)
        await bench.service.cancel(TENANT, job_id)
        await bench.until(job_id, "cancelled")

        async def all_ended() -> bool:
            found, _ = await bench.jobs.find(TENANT, limit=100)
            return {(await bench.job(id_of(job)))["status"] for job in found} == {"cancelled"}

        await eventually(all_ended)
    assert not await bench.store.client.exists(bench.tag + "abandoned")
    assert await bench.store.client.hget(bench.tag + "open", TENANT) == b"0"


async def test_a_parent_that_succeeds_leaves_its_children_alone(bench: Bench) -> None:
    gate = asyncio.Event()

    async def child(ctx: Context, job_input: Any) -> Any:
        del ctx
        await gate.wait()
        return job_input

    async def parent(ctx: Context, job_input: Any) -> Any:
        del job_input
        return await ctx.spawn("child", 5)

    async with bench.working(bench.task("parent", parent), bench.task("child", child)):
        job = await bench.until(await bench.submit("parent"), "succeeded")
        gate.set()
        assert (await bench.until(job["result"], "succeeded"))["result"] == 5
    assert await bench.job(job["id"]) == job


async def test_waiting_has_an_end(bench: Bench) -> None:
    async def parent(ctx: Context, job_input: Any) -> Any:
        del job_input
        child = await ctx.spawn("child", "wait")
        try:
            await ctx.gather(child, timeout=0.3)
        except ChildrenLate as late:
            return str(late)

    async with bench.working(*family(bench, parent)):
        job_id = await bench.submit("parent")
        job = await bench.until(job_id, "succeeded")
    assert job["result"] == "1 of 1 children have not ended within 0.3 s"
    assert (await bench.events(job_id)).count("job.waiting") == 1


@pytest.mark.usefixtures("own_undos")
async def test_two_gathers_and_a_step_between(bench: Bench) -> None:
    effects: list[Any] = []

    @undo("take-back")
    async def take_back(ctx: Context, result: Any) -> None:
        del ctx
        effects.append(("undone", result))

    async def parent(ctx: Context, job_input: Any) -> None:
        del job_input
        (first,) = await ctx.gather(await ctx.spawn("child", 1))

        async def between() -> Any:
            effects.append(first)
            return first

        await ctx.step("between", between, undo="take-back")
        await ctx.gather(await ctx.spawn("child", "fail"))

    async with bench.working(*family(bench, parent)):
        job = await bench.until(await bench.submit("parent"), "failed")
    assert effects == [2, ("undone", 2)]
    assert job["error"]["type"] == "ChildFailed"


async def test_a_large_result_comes_from_the_child_itself(bench: Bench) -> None:
    async def parent(ctx: Context, job_input: Any) -> Any:
        del job_input
        (text,) = await ctx.gather(await ctx.spawn("child", "x" * 20_000))
        return len(text)

    async with bench.working(*family(bench, parent)):
        assert (await bench.until(await bench.submit("parent"), "succeeded"))["result"] == 40_000


async def test_a_parent_in_a_thread_and_one_with_a_task_group(bench: Bench) -> None:
    def in_thread(ctx: Context, job_input: Any) -> Any:
        children = [ctx.spawn_sync("child", number) for number in job_input]
        return ctx.gather_sync(*children)

    async def in_group(ctx: Context, job_input: Any) -> Any:
        children = [await ctx.spawn("child", number) for number in job_input]
        async with asyncio.TaskGroup() as tasks:
            found = [tasks.create_task(ctx.gather(child)) for child in children]
        return [task.result()[0] for task in found]

    async with bench.working(*family(bench, in_thread), bench.task("group", in_group)):
        ids = [await bench.submit(kind, value=[1, 2]) for kind in ("parent", "group")]
        assert [(await bench.until(job_id, "succeeded"))["result"] for job_id in ids] == [[2, 4]] * 2


async def test_the_progress_of_children_is_their_parents(bench: Bench) -> None:
    gate = asyncio.Event()

    async def child(ctx: Context, job_input: Any) -> None:
        ctx.progress(1, 2, 'a "fraction":9 of it')
        if job_input:
            await gate.wait()

    async def parent(ctx: Context, job_input: Any) -> Any:
        children = [await ctx.spawn("child", number) for number in range(job_input)]
        await ctx.gather(*children)

    async with bench.working(bench.task("parent", parent), bench.task("child", child), concurrency=8):
        job_id = await bench.submit("parent", value=4)

        async def half() -> bool:
            progress = (await bench.job(job_id))["progress"]
            return bool(progress and progress["done"] == 2.5 and progress["total"] == 4)

        await eventually(half)
        gate.set()
        job = await bench.until(job_id, "succeeded")
    assert job["progress"]["fraction"] == 1


async def test_many_children_tell_little(bench: Bench) -> None:
    async def parent(ctx: Context, job_input: Any) -> Any:
        children = [await ctx.spawn("child", number) for number in range(job_input)]
        return sum(await ctx.gather(*children))

    async with bench.working(*family(bench, parent), concurrency=50):
        job_id = await bench.submit("parent", value=200)
        job = await bench.until(job_id, "succeeded", 60)
    assert job["result"] == 2 * sum(range(200))
    log = await bench.log(job_id)
    seconds = datetime.fromisoformat(log[-1]["time"]) - datetime.fromisoformat(log[0]["time"])
    told = sum(event["type"] == "job.progress" for event in log)
    assert told <= 2 + seconds.total_seconds() * 1000 / steps.CHILD_PROGRESS_EVERY_MS
