"""Recurring jobs on a real Redis: one firing, however many look; no burst; no pile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.jobs import task_types
from gateway.jobs.cron import Schedule
from gateway.jobs.records import Claim
from gateway.jobs.scheduler import Scheduler
from gateway.jobs.task_types import KnownSchedule, TaskType, TaskTypes
from gateway.settings import Settings
from tests.jobs.bench import TENANT, Bench

HOURLY = Schedule(cron="0 * * * *", input='{"n":1}')
HOUR = 3_600_000


@pytest.fixture
def types(bench: Bench) -> TaskTypes:
    return TaskTypes(bench.store)


def scheduler(bench: Bench) -> Scheduler:
    return Scheduler(bench.jobs, TaskTypes(bench.store), bench.channels, Settings())


async def register(types: TaskTypes, schedule: Schedule | None = HOURLY) -> None:
    await types.register({"echo": TaskType("default", 3, 60, schedule=schedule)})


async def only(types: TaskTypes) -> KnownSchedule:
    (known,) = await types.schedules(TENANT)
    return known


async def missed(bench: Bench, types: TaskTypes, hours: int = 1) -> int:
    """The time of the next firing was so many hours ago; returns it."""
    at = (await only(types)).next - hours * HOUR
    client: Any = bench.store.client
    await client.zadd(bench.tag + "schedules:next", {"echo": at})
    return at


async def jobs(bench: Bench) -> list[str]:
    found, _ = await bench.jobs.find(TENANT, limit=100)
    return [job.decode().split('"id":"')[1][:30] for job in found]


async def test_many_schedulers_make_one_job_of_a_firing(bench: Bench, types: TaskTypes) -> None:
    await register(types)
    at = await missed(bench, types)
    await asyncio.gather(*(scheduler(bench).step(bench.tag) for _ in range(8)))
    (job_id,) = await jobs(bench)
    assert job_id == HOURLY.job_id("echo", at)
    known = await only(types)
    assert (known.last, known.job) == (at, job_id)
    assert known.next == HOURLY.following(known.next - 1)
    assert known.next > at
    (message,) = (await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True)).messages
    assert (message.id, bytes(message.input)) == (job_id, b'{"n":1}')


async def test_what_was_missed_is_made_up_for_once(bench: Bench, types: TaskTypes) -> None:
    await register(types)
    await missed(bench, types, hours=72)
    for _ in range(5):
        await scheduler(bench).step(bench.tag)
    assert len(await jobs(bench)) == 1
    assert (await only(types)).next % HOUR == 0


async def test_a_firing_that_was_not_noted_is_the_same_job(bench: Bench, types: TaskTypes) -> None:
    await register(types)
    at = await missed(bench, types)
    await scheduler(bench).step(bench.tag)
    client: Any = bench.store.client
    await client.zadd(bench.tag + "schedules:next", {"echo": at})  # as if it had died before it said so
    schedule = Schedule(cron=HOURLY.cron, input=HOURLY.input, overlap="allow")
    await register(types, schedule)
    await client.zadd(bench.tag + "schedules:next", {"echo": at})
    await scheduler(bench).step(bench.tag)
    assert len(await jobs(bench)) == 1


@pytest.mark.parametrize("overlap", ["skip", "allow"])
async def test_a_firing_while_the_last_ones_job_is_open(bench: Bench, types: TaskTypes, overlap: Any) -> None:
    await register(types, Schedule(cron=HOURLY.cron, overlap=overlap))
    await missed(bench, types, hours=3)
    await scheduler(bench).step(bench.tag)
    await missed(bench, types, hours=2)
    await scheduler(bench).step(bench.tag)
    assert len(await jobs(bench)) == (1 if overlap == "skip" else 2)
    assert (await only(types)).skipped == (1 if overlap == "skip" else 0)
    for message in (await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True)).messages:
        claim = await bench.claim(message)
        assert isinstance(claim, Claim)
        await bench.jobs.advance(TENANT, message.id, fence=claim.fence, op=1, to="succeeded", result="1")
    await missed(bench, types)
    await scheduler(bench).step(bench.tag)
    assert len(await jobs(bench)) == (2 if overlap == "skip" else 3)


async def test_nothing_fires_while_the_type_is_paused(bench: Bench, types: TaskTypes) -> None:
    await register(types)
    await types.pause("echo", paused=True)
    await missed(bench, types)
    await scheduler(bench).step(bench.tag)
    assert await jobs(bench) == []
    assert (await only(types)).skipped == 1


async def test_a_schedule_changes_and_goes_with_its_registration(types: TaskTypes) -> None:
    await register(types)
    before = await only(types)
    await register(types)
    assert await only(types) == before
    await register(types, Schedule(cron="30 * * * *"))
    assert (await only(types)).next % HOUR == HOUR // 2
    await register(types, None)
    assert await types.schedules(TENANT) == []


async def test_a_schedule_nobody_registers_any_more_goes_away(
    bench: Bench, types: TaskTypes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(types)
    await missed(bench, types)
    monkeypatch.setattr(task_types, "SCHEDULE_AGE", -1.0)
    await scheduler(bench).step(bench.tag)
    assert await types.schedules(TENANT) == []
    assert await jobs(bench) == []
