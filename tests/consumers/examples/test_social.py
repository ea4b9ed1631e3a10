"""`social.notify` through a worker, on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from consumers import Context
from consumers.registry import Task, load
from gateway.events import MAX_CHANNELS
from tests.consumers.support import Bench

NOTICE = {"actor": "ann", "verb": "posted", "object": "a picture of the sea", "url": "https://example.com/p/1"}

pytestmark = pytest.mark.usefixtures("no_backoff")


@pytest.fixture
async def notify(bench: Bench) -> AsyncIterator[Task]:
    task = load("consumers.examples")["social.notify"]
    task = task._replace(pool=bench.pool, policy=task.policy._replace(backoff=None))
    async with bench.working(task):
        yield task


async def test_everybody_hears_of_it_once_and_the_actor_does_not(bench: Bench, notify: Task) -> None:
    users = [f"u{number}" for number in range(2 * MAX_CHANNELS + 1)]
    job_id = await bench.submit(notify.name, value={**NOTICE, "users": [*users, "u3", "ann"]})
    job = await bench.until(job_id, "succeeded")
    assert job["result"] == {
        "event": f"{job_id}-1-notify",
        "type": "social.posted",
        "notified": len(users),
        "publications": 3,
        "left_out": {"actor": 1, "repeated": 1},
    }
    assert job["progress"]["message"] == "129 of 129 users"
    for user in users:
        (event,) = await bench.heard(f"user:{user}")
        assert (event["id"], event["type"], event["subject"]) == (f"{job_id}-1-notify", "social.posted", "user/ann")
        assert event["data"] == NOTICE
    assert await bench.heard("user:ann") == []


async def test_a_retry_goes_on_and_repeats_nothing(bench: Bench, notify: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    publish = Context.publish

    async def dies_once(*given: Any, **named: Any) -> str:
        nonlocal calls
        calls += 1
        told = await publish(*given, **named)
        if calls == 2:
            raise ConnectionError("told, and then died")
        return told

    monkeypatch.setattr(Context, "publish", dies_once)
    job_id = await bench.submit(notify.name, value={**NOTICE, "sample": 150})
    job = await bench.until(job_id, "succeeded")
    assert (job["attempt"], calls) == (2, 5)
    for number in range(1, 151):
        assert len(await bench.heard(f"user:follower-{number}")) == 1, number


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({}, 'give one of "users" and "sample"'),
        ({"users": ["a"], "sample": 1}, 'give one of "users" and "sample"'),
        ({"users": ["ann", "ann"]}, "nobody to tell"),
        ({"users": ["a b"]}, "input.users[0] is not valid"),
        ({"users": ["a"], "verb": "Liked!"}, "input.verb is not valid"),
        ({"sample": 10_001}, "input.sample is not valid"),
    ],
)
async def test_an_input_that_breaks_a_rule(bench: Bench, notify: Task, change: dict[str, Any], rule: str) -> None:
    job = await bench.until(await bench.submit(notify.name, value=NOTICE | change), "failed")
    assert (job["error"]["type"], job["attempt"]) == ("GiveUp", 1)
    assert rule in job["error"]["message"]
