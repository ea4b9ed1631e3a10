"""Sagas on a real worker: what is undone, when and in which order, and what an undo may do."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from consumers import Context, GiveUp, Uncertain, undo, undos
from gateway.jobs.model import CRASH_LIMIT
from gateway.jobs.records import Claim, Holder
from gateway.jobs.sagas import SagaStore
from tests.consumers.sagas import Effects, act, step_events, steps
from tests.consumers.support import BEATING, TENANT, Bench
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("no_backoff", "own_undos")


async def test_what_was_done_is_undone_in_reverse_order(bench: Bench, effects: Effects) -> None:
    async def saga(ctx: Context, job_input: Any) -> None:
        del job_input
        await ctx.step("a", act(effects, "a"), undo="undo-a", undo_input={"order": 1})
        await ctx.step("plain", act(effects, "plain"))
        await ctx.step("b", act(effects, "b"), undo="undo-b")
        raise GiveUp("out of stock")

    async with bench.working(bench.task("saga", saga)):
        job_id = await bench.submit("saga")
        job = await bench.until(job_id, "failed")
    assert effects == ["a", "plain", "b", ("undo-b of b", "b done"), ("undo-a of a", "a done", {"order": 1})]
    assert job["error"] == {"type": "GiveUp", "message": "out of stock", "attempt": 1, "retryable": False}
    assert steps(job) == ["a undone", "plain done", "b undone"]
    events = await bench.events(job_id)
    assert events[-6:] == ["job.compensating", *["job.step"] * 4, "job.failed"]
    assert (await step_events(bench, job_id))[-4:] == ["b undoing", "b undone", "a undoing", "a undone"]
    assert await bench.due() == {}


async def test_a_step_whose_function_raised_has_not_happened_and_one_that_was_cut_off_may_have(
    bench: Bench, effects: Effects
) -> None:
    async def saga(ctx: Context, job_input: Any) -> None:
        del job_input

        def refuse() -> None:
            raise OSError("declined")

        with pytest.raises(OSError, match="declined"):
            await ctx.step("a", refuse, undo="undo-a")
        await ctx.step("b", asyncio.Event().wait, undo="undo-b")

    async with bench.working(bench.task("saga", saga, timeout=2, max_attempts=1)):
        job = await bench.until(await bench.submit("saga"), "failed")
    assert effects == [("undo-b of b", None)]
    assert (steps(job), job["error"]["type"]) == (["a failed", "b undone"], "TaskTimeout")


async def test_a_step_that_does_not_know_whether_it_happened_may_have(bench: Bench, effects: Effects) -> None:
    async def saga(ctx: Context, job_input: Any) -> None:
        del job_input

        def unknown() -> None:
            raise Uncertain("no answer")

        await ctx.step("a", unknown, undo="undo-a")

    async with bench.working(bench.task("saga", saga)):
        job = await bench.until(await bench.submit("saga"), "failed")
    assert effects == [("undo-a of a", None)]
    assert (steps(job), job["error"]["type"]) == (["a undone"], "Uncertain")


async def test_an_undo_has_the_helpers_of_a_task(bench: Bench) -> None:
    used: Effects = []

    @undo("helped")
    async def helped(ctx: Context, result: Any) -> None:
        async with ctx.lock("bank"), ctx.breaker("bank"):
            used.append(await ctx.once("refund", lambda key: asyncio.sleep(0, [key, result])))

    async def saga(ctx: Context, job_input: Any) -> None:
        del job_input
        await ctx.step("a", lambda: 1, undo="helped")
        raise GiveUp("no")

    async with bench.working(bench.task("saga", saga)):
        job_id = await bench.submit("saga")
        job = await bench.until(job_id, "failed")
    assert (job["error"]["message"], used) == ("no", [[f"{job_id}-1-refund", 1]])


async def test_attempts_that_fail_are_not_undone_before_the_last(bench: Bench, effects: Effects) -> None:
    async def saga(ctx: Context, job_input: Any) -> None:
        del job_input
        await ctx.step("a", act(effects, "a"), undo="undo-a")
        raise OSError(f"attempt {ctx.attempt}")

    async with bench.working(bench.task("saga", saga, max_attempts=3)):
        job = await bench.until(await bench.submit("saga"), "failed")
    assert effects == ["a", ("undo-a of a", "a done")]
    assert (job["error"]["message"], len(job["attempts"])) == ("attempt 3", 4)  # the last one is the undoing


async def test_cancelling_a_running_saga_undoes_it(bench: Bench, effects: Effects) -> None:
    bench.settings = bench.with_settings(lease=BEATING)

    async def saga(ctx: Context, job_input: Any) -> None:
        del job_input
        await ctx.step("a", act(effects, "a"), undo="undo-a")
        await ctx.step("b", asyncio.Event().wait, undo="undo-b")

    async with bench.working(bench.task("saga", saga)):
        job_id = await bench.submit("saga")
        await eventually(lambda: effects == ["a"])
        await bench.service.cancel(TENANT, job_id)
        job = await bench.until(job_id, "cancelled")
    assert effects == ["a", ("undo-b of b", None), ("undo-a of a", "a done")]
    assert (job["error"], await bench.ends(job_id)) == (None, ["job.cancelled"])


@pytest.mark.parametrize("status", ["retrying", "queued"])
async def test_cancelling_a_saga_that_no_worker_holds_goes_by_way_of_a_worker(
    bench: Bench, effects: Effects, status: str
) -> None:
    async def saga(ctx: Context, job_input: Any) -> None:
        del job_input
        await ctx.step("a", act(effects, "a"), undo="undo-a")
        raise OSError("later")

    task = bench.task("saga", saga)
    async with bench.working(task, reap=False):
        job_id = await bench.submit("saga")
        await bench.until(job_id, "retrying")
    if status == "queued":
        await bench.jobs.queued(await bench.hand_over(job_id))
    said = json.loads(await bench.service.cancel(TENANT, job_id))
    assert (said["status"], said["ending"]) == ("retrying", "cancelled")
    assert json.loads(await bench.service.cancel(TENANT, job_id)) == said  # it is on its way
    async with bench.working(task):
        job = await bench.until(job_id, "cancelled")
    assert effects == ["a", ("undo-a of a", "a done")]
    assert "ending" not in job
    assert [event for event in await bench.events(job_id) if event == "job.compensating"] == ["job.compensating"] * 2


async def test_a_saga_whose_workers_are_lost_is_undone(bench: Bench, effects: Effects) -> None:
    await bench.register("saga", max_attempts=10)
    job_id = await bench.submit("saga")
    sagas = SagaStore(bench.jobs)
    for crash in range(CRASH_LIMIT):
        claim = await bench.jobs.claim(await bench.hand_over(job_id), token=f"t{crash}", lease=60, worker="w")
        assert isinstance(claim, Claim)
        await sagas.step(Holder.of(TENANT, job_id, claim), "a", "started", undo="undo-a")
        await bench.lose_lease(job_id)
    job = await bench.job(job_id)
    assert (job["status"], job["ending"]) == ("retrying", "failed")
    async with bench.working():  # it need not even know the task
        job = await bench.until(job_id, "failed")
    assert effects == [("undo-a of a", None)]
    assert job["error"]["type"] == "WorkerLost"


async def test_an_undo_that_fails_is_tried_again_and_then_waits_to_be_run_again(bench: Bench, effects: Effects) -> None:
    broken = True

    @undo("refund", max_attempts=3)
    def refund(ctx: Context, result: Any) -> None:
        effects.append((ctx.step_key(ctx.undoing), result))
        if broken:
            raise OSError("the bank is closed")

    async def saga(ctx: Context, job_input: Any) -> None:
        del job_input
        await ctx.step("a", act(effects, "a"), undo="undo-a")
        await ctx.step("charge", act(effects, "charge"), undo="refund")
        raise GiveUp("no stock")

    async with bench.working(bench.task("saga", saga)):
        job_id = await bench.submit("saga")
        job = await bench.until(job_id, "failed")
        assert effects == ["a", "charge", *[(f"{job_id}:1:charge", "charge done")] * 3]
        assert job["error"]["type"] == "CompensationFailed"
        assert "charge could not be undone: OSError: the bank is closed" in job["error"]["message"]
        assert (steps(job), job["step"]) == (["a done", "charge undo-failed"], "charge")
        assert len(job["attempts"]) == 4
        broken = False
        effects.clear()
        await bench.service.rerun(TENANT, job_id)
        await eventually(lambda: len(effects) == 2)
        job = await bench.until(job_id, "failed")
    assert effects == [(f"{job_id}:1:charge", "charge done"), ("undo-a of a", "a done")]
    assert (job["run"], job["error"]["message"]) == (2, "no stock")
    assert await bench.ends(job_id) == ["job.failed"] * 2


async def test_a_job_that_was_undone_runs_again_from_the_start(bench: Bench, effects: Effects) -> None:
    async def saga(ctx: Context, job_input: Any) -> None:
        del job_input
        await ctx.step("a", act(effects, "a"), undo="undo-a")
        if ctx.run == 1:
            raise GiveUp("no")

    async with bench.working(bench.task("saga", saga)):
        job_id = await bench.submit("saga")
        await bench.until(job_id, "failed")
        await bench.service.rerun(TENANT, job_id)
        job = await bench.until(job_id, "succeeded")
    assert effects == ["a", ("undo-a of a", "a done"), "a"]
    assert steps(job) == ["a done"]


async def test_an_undo_this_worker_does_not_know_waits_for_one_that_does(bench: Bench, effects: Effects) -> None:
    async def saga(ctx: Context, job_input: Any) -> None:
        del job_input
        await ctx.step("a", act(effects, "a"), undo="undo-a")
        undos._undos.clear()  # another worker, another release
        raise GiveUp("no")

    async with bench.working(bench.task("saga", saga), reap=False):
        job = await bench.until(await bench.submit("saga"), "retrying")
    assert job["attempts"][-1]["error"]["message"].endswith("UnknownUndo: this worker has no undo 'undo-a'")
    assert (job["error"]["message"], job["ending"]) == ("no", "failed")


async def test_a_stop_of_the_worker_interrupts_the_undoing_without_burning_anything(bench: Bench) -> None:
    calls = 0

    @undo("slow")
    async def slow(ctx: Context, result: Any) -> None:
        del ctx, result
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.Event().wait()

    async def saga(ctx: Context, job_input: Any) -> None:
        del job_input
        await ctx.step("a", lambda: None, undo="slow")
        raise GiveUp("no")

    task = bench.task("saga", saga)
    async with bench.working(task, grace=0.05, reap=False) as worker:
        job_id = await bench.submit("saga")
        await eventually(lambda: calls == 1)
        worker.stop()
        async with asyncio.timeout(5):
            await worker.stopped()
    assert (await bench.job(job_id))["status"] == "retrying"
    async with bench.working(task):
        job = await bench.until(job_id, "failed")
    assert (calls, job["error"]["message"]) == (2, "no")
