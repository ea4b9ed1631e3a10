"""Steps on a real worker: done once over all attempts, in loops and threads, and under rules."""

from __future__ import annotations

from typing import Any

import pytest

from consumers import Context, GiveUp, undo
from consumers.registry import load
from gateway.jobs.steps import MAX_STEPS
from tests.consumers.sagas import Effects, act, step_events, steps
from tests.consumers.support import TASKS, Bench

pytestmark = pytest.mark.usefixtures("no_backoff", "own_undos")


async def test_a_step_that_is_done_is_skipped_by_the_next_attempt(bench: Bench, effects: Effects) -> None:
    async def saga(ctx: Context, job_input: Any) -> Any:
        del job_input
        first = await ctx.step("a", act(effects, "a"))
        if ctx.attempt == 1:
            raise OSError("no luck")

        async def later() -> list[Any]:
            return [first, (1, 2)]

        return await ctx.step("b", later)

    async with bench.working(bench.task("saga", saga)):
        job_id = await bench.submit("saga")
        job = await bench.until(job_id, "succeeded")
    assert effects == ["a"]
    assert job["result"] == ["a done", [1, 2]]
    assert (job["attempt"], steps(job)) == (2, ["a done", "b done"])
    assert await step_events(bench, job_id) == ["a started", "a done", "b started", "b done"]
    last = (await bench.log(job_id))[-1]["data"]
    assert last == {name: value for name, value in job.items() if name != "attempts"}


async def test_steps_of_a_task_in_a_thread(bench: Bench, effects: Effects) -> None:
    def saga(ctx: Context, job_input: Any) -> Any:
        del job_input
        first = ctx.step_sync("a", act(effects, "a"), undo="undo-a")
        if ctx.attempt == 1:
            with pytest.raises(OSError, match="no"):
                ctx.step_sync("b", lambda: (_ for _ in ()).throw(OSError("no")))
            raise OSError("again")
        return [first, ctx.step_sync("b", lambda: 7)]

    async with bench.working(bench.task("saga", saga)):
        job = await bench.until(await bench.submit("saga"), "succeeded")
    assert (job["result"], effects) == (["a done", 7], ["a"])


async def test_a_task_in_a_process_is_told_that_it_has_no_steps(bench: Bench) -> None:
    task = load(TASKS)["process.step"]._replace(pool=bench.pool)
    async with bench.working(task):
        job = await bench.until(await bench.submit("process.step"), "failed", 60)
    assert job["error"]["message"].startswith("a task in a process of its own has no steps and no children")


async def broken_name(ctx: Context) -> None:
    await ctx.step("no spaces", lambda: None)


async def repeated_name(ctx: Context) -> None:
    await ctx.step("a", lambda: None)
    await ctx.step("a", lambda: None)


async def unknown_undo(ctx: Context) -> None:
    await ctx.step("a", lambda: None, undo="nobody")


async def large_result(ctx: Context) -> None:
    await ctx.step("a", lambda: "x" * 16383)  # with its quotes one too many


async def not_json(ctx: Context) -> None:
    await ctx.step("a", object)


async def many_steps(ctx: Context) -> None:
    for number in range(MAX_STEPS + 1):
        await ctx.step(f"s{number}", lambda: None)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (broken_name, "the name of the step 'no spaces' must be 1 to 64 characters"),
        (repeated_name, "the step 'a' has been there in this attempt"),
        (unknown_undo, "the step 'a' names the undo 'nobody', which is not registered"),
        (large_result, "the step 'a' has 16385 bytes to keep, more than 16384"),
        (not_json, "the result is not JSON"),
        (many_steps, f"a job may have at most {MAX_STEPS} steps"),
    ],
)
async def test_a_step_that_breaks_a_rule_fails_for_good(bench: Bench, broken: Any, message: str) -> None:
    async def saga(ctx: Context, job_input: Any) -> None:
        del job_input
        await broken(ctx)

    async with bench.working(bench.task("saga", saga)):
        job = await bench.until(await bench.submit("saga"), "failed")
    assert message in job["error"]["message"]
    assert (job["attempt"], job["error"]["retryable"]) == (1, False)


async def test_an_undo_has_no_steps_of_its_own(bench: Bench) -> None:
    @undo("nested")
    async def nested(ctx: Context, result: Any) -> None:
        del result
        await ctx.step("deeper", lambda: None)

    async def saga(ctx: Context, job_input: Any) -> None:
        del job_input
        await ctx.step("a", lambda: None, undo="nested")
        raise GiveUp("no")

    async with bench.working(bench.task("saga", saga)):
        job = await bench.until(await bench.submit("saga"), "failed")
    assert "an undo has none" in job["error"]["message"]
