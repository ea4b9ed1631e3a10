"""What a family may not do and how large it may be, and what comes late to it or stays of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from consumers import Context
from gateway.events import new_id
from gateway.jobs import steps
from gateway.jobs.records import Claim, Holder
from gateway.jobs.sagas import SagaStore
from gateway.jobs.submission import Submission
from tests.consumers.families import family, the_children
from tests.consumers.support import TENANT, Bench
from tests.support.messages import TRACE
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("no_backoff")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"type_": "child", "name": "no spaces"}, "the name of the child 'no spaces' must be"),
        ({"type_": "child", "priority": "urgent"}, "the child 'child' is not valid: Invalid enum value 'urgent'"),
        ({"type_": "child", "colour": "red"}, "unknown field `colour`"),
        ({"type_": "child", "job_input": "x" * 300_000}, "the child 'child' is not valid"),
    ],
)
async def test_a_child_that_breaks_a_rule_fails_its_parent_for_good(
    bench: Bench, asked: dict[str, Any], message: str
) -> None:
    async def parent(ctx: Context, job_input: Any) -> None:
        del job_input
        await ctx.spawn(**asked)

    async with bench.working(*family(bench, parent)):
        job = await bench.until(await bench.submit("parent"), "failed")
    assert message in job["error"]["message"]
    assert (job["attempt"], await the_children(bench)) == (1, [])


async def test_a_stranger_cannot_be_gathered_and_another_order_is_noticed(bench: Bench) -> None:
    async def stranger(ctx: Context, job_input: Any) -> None:
        await ctx.gather(job_input)

    async def other_order(ctx: Context, job_input: Any) -> None:
        del job_input
        await ctx.spawn("child" if ctx.attempt == 1 else "parent", 1)
        raise OSError("again")

    async with bench.working(*family(bench, stranger), bench.task("other", other_order)):
        job = await bench.until(await bench.submit("parent", value="job_x"), "failed")
        assert job["error"]["message"] == "gather: 'job_x' has not been spawned by this task"
        job = await bench.until(await bench.submit("other"), "failed")
        assert job["error"]["message"] == "the child #1 is a child already"


async def test_families_are_bounded(bench: Bench) -> None:
    async def parent(ctx: Context, job_input: Any) -> Any:
        return await ctx.gather(await ctx.spawn("parent", job_input + 1))

    async with bench.working(*family(bench, parent)):
        job = await bench.until(await bench.submit("parent", value=0), "failed")
    depth = steps.MAX_DEPTH
    assert f"jobs may be nested {depth} deep" in job["error"]["message"]
    found, _ = await bench.jobs.find(TENANT, limit=100)
    assert len(found) == depth + 1


async def test_no_more_than_so_many_children(bench: Bench) -> None:
    await bench.register("parent", "child")
    job_id = await bench.submit("parent")
    claim = await bench.jobs.claim(await bench.message(job_id), token="t", lease=60, worker="w")
    assert isinstance(claim, Claim)
    sagas, holder = SagaStore(bench.jobs), Holder.of(TENANT, job_id, claim)
    arguments = _child_arguments(bench, job_id)
    for number in range(steps.MAX_CHILDREN):
        await sagas.spawn(holder, f"#{number}", arguments(number))
    with pytest.raises(Exception, match="at most 1000 children"):
        await sagas.spawn(holder, "one more", arguments(steps.MAX_CHILDREN))


def _child_arguments(bench: Bench, parent: str) -> Any:
    writer = bench.worker()._rebuilder.arguments
    return lambda _: writer.child(TENANT, new_id("job_"), Submission(type="child"), TRACE, parent)


async def test_a_late_confirmation_or_delivery_does_not_wake_a_waiting_parent(bench: Bench) -> None:
    async def parent(ctx: Context, job_input: Any) -> Any:
        del job_input
        return await ctx.gather(await ctx.spawn("child", "wait"))

    async with bench.working(*family(bench, parent)):
        job_id = await bench.submit("parent")
        await bench.until(job_id, "waiting")
        message = await bench.message(job_id)
        await bench.jobs.queued(message)
        assert await bench.jobs.claim(message, token="again", lease=60, worker="w") == "waiting"
        waits_until = (await bench.due())[job_id]
        await bench.make_due(job_id)

        async def looked_at() -> bool:
            return (await bench.due())[job_id] == waits_until

        await eventually(looked_at)
        assert (await bench.job(job_id))["status"] == "waiting"


async def test_a_forgotten_parent_leaves_nothing_behind(bench: Bench) -> None:
    async def parent(ctx: Context, job_input: Any) -> Any:
        del job_input
        await ctx.step("a", lambda: None)
        return await ctx.gather(await ctx.spawn("child", 3))

    async with bench.working(*family(bench, parent)):
        job_id = await bench.submit("parent")
        await bench.until(job_id, "succeeded")
    await asyncio.sleep(0.005)
    old = await bench.jobs.outdated(bench.tag, retention=0, limit=10)
    assert len(old) == 2
    await bench.jobs.purge(bench.tag, old, retention=0)
    keys: list[Any] = list(await bench.store.client.keys(bench.tag + "*"))
    left = {key.decode().removeprefix(bench.tag) for key in keys}
    assert left <= {
        "types",
        "types:seen",
        "open",
        "gen",
        f"seq:{TENANT}",
        f"log:{TENANT}:jobs",
        f"meta:{TENANT}:jobs",
    }


async def test_a_child_that_is_run_again_is_nobodys(bench: Bench) -> None:
    async def parent(ctx: Context, job_input: Any) -> Any:
        del job_input
        return await ctx.gather(await ctx.spawn("child", 3), await ctx.spawn("child", "wait"))

    async with bench.working(*family(bench, parent)):
        job_id = await bench.submit("parent")
        await bench.until(job_id, "waiting")

        async def first() -> dict[str, Any]:
            return next((child for child in await the_children(bench) if child["status"] == "succeeded"), {})

        child = await eventually(first)
        before = (await bench.job(job_id))["progress"]
        await bench.service.rerun(TENANT, child["id"])
        await bench.until(child["id"], "succeeded", run=2)
        assert (await bench.job(job_id))["progress"] == before
