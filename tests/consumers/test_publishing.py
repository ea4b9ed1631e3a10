"""`ctx.publish`: a task's events reach channels under the rules of `POST /v1/events`."""

from __future__ import annotations

import re
from typing import Any

import pytest

from consumers import Context
from consumers.context import Cancelled
from consumers.registry import load
from gateway.events import MAX_CHANNELS, MAX_EVENT_BYTES
from tests.consumers.support import SLOW, TASKS, Bench
from tests.support.messages import TRACE

pytestmark = pytest.mark.usefixtures("no_backoff")


async def test_an_event_reaches_each_channel_and_says_where_it_comes_from(bench: Bench) -> None:
    async def telling(ctx: Context, job_input: Any) -> str:
        return await ctx.publish(["user:ann", "news", "news"], "post.liked", job_input, subject="post/1")

    async with bench.working(bench.task("telling", telling)):
        job = await bench.until(await bench.submit("telling", value={"by": "bob", "none": []}), "succeeded")
    (event,) = await bench.heard("user:ann")
    assert await bench.heard("news") == [event]
    assert (event["type"], event["subject"], event["data"]) == ("post.liked", "post/1", {"by": "bob", "none": []})
    assert (event["id"], event["source"], event["traceparent"]) == (job["result"], f"/v1/jobs/{job['id']}", TRACE)


async def test_an_event_with_an_id_is_published_once_over_all_attempts(bench: Bench) -> None:
    async def telling(ctx: Context, job_input: Any) -> int:
        del job_input
        await ctx.publish("once", "a.b", ctx.attempt, event_id=f"{ctx.idempotency_key}-told")
        await ctx.publish("each", "a.b", ctx.attempt)
        if ctx.attempt < 3:
            raise ValueError("after it")
        return ctx.attempt

    async with bench.working(bench.task("telling", telling)):
        job_id = await bench.submit("telling")
        await bench.until(job_id, "succeeded")
    assert [(event["id"], event["data"]) for event in await bench.heard("once")] == [(f"{job_id}-1-told", 1)]
    assert [event["data"] for event in await bench.heard("each")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("channels", "type_", "data", "event_id", "rule"),
    [
        ("job:x", "a.b", 1, None, r"channels/0 must be .*neither jobs nor job:"),
        (["ok", "jobs"], "a.b", 1, None, "channels/1 must be"),
        ([], "a.b", 1, None, "channels"),
        ([f"c{n}" for n in range(MAX_CHANNELS + 1)], "a.b", 1, None, "channels"),
        ("a", "job.succeeded", 1, None, "type must be"),
        ("a", "gateway.bye", 1, None, "type must be"),
        ("a", "plain", 1, None, "type must be"),
        ("a", "a.b", 1, "no spaces", "id must be"),
        ("a", "a.b", {1, object()}, None, "the data is not JSON"),
        ("a", "a.b", "x" * MAX_EVENT_BYTES, None, "is over"),
    ],
)
async def test_what_breaks_a_rule_ends_the_job(
    bench: Bench, channels: Any, type_: str, data: Any, event_id: str | None, rule: str
) -> None:
    async def telling(ctx: Context, job_input: Any) -> str:
        del job_input
        return await ctx.publish(channels, type_, data, event_id=event_id)

    async with bench.working(bench.task("telling", telling)):
        job = await bench.until(await bench.submit("telling"), "failed")
    assert (job["error"]["type"], job["attempt"]) == ("GiveUp", 1)
    assert re.search(rule, job["error"]["message"]), job["error"]["message"]
    assert await bench.heard("a") == []


async def test_threads_and_processes_publish_too(bench: Bench) -> None:
    tasks = [load(TASKS)[name]._replace(pool=bench.pool) for name in ("publish.thread", "publish.process")]
    async with bench.working(*tasks):
        for task in tasks:
            job = await bench.until(await bench.submit(task.name, value="hi"), "succeeded", SLOW)
            (event,) = await bench.heard(task.name)
            assert (event["id"], event["data"]) == (job["result"], "hi")


async def test_a_job_that_is_over_publishes_nothing(bench: Bench) -> None:
    left: list[Context] = []

    async def telling(ctx: Context, job_input: Any) -> None:
        del job_input
        left.append(ctx)

    async with bench.working(bench.task("telling", telling)):
        await bench.until(await bench.submit("telling"), "succeeded")
        with pytest.raises(Cancelled, match="no longer this attempt's"):
            await left[0].publish("late", "a.b")
    assert await bench.heard("late") == []
