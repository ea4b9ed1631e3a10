"""What is left in Redis once every job has ended and is forgotten: nothing that grows with their number."""

from __future__ import annotations

import json
import random
import re

from redis.asyncio import Redis

from gateway.events import new_id
from gateway.jobs.dead_filter import Filter
from gateway.jobs.deadletters import DeadLetters
from gateway.jobs.foreign import Birth, Change, ForeignJobs, Seen
from gateway.jobs.records import Holder
from gateway.jobs.sagas import SagaStore
from gateway.jobs.task_types import TaskType
from tests.jobs.bench import TENANT, TRACE, Bench
from tests.jobs.test_replay import ERROR
from tests.jobs.walks import Walk

# What there is one of per shard, tenant, type or channel; everything else must be gone, or go by itself.
KEPT = re.compile(
    r"(gen|open|waiting|types|types:seen|seq:default|(log|meta):default:(ops|jobs|user:ann))\Z",
)


async def forget_all(bench: Bench) -> None:
    while jobs := await bench.jobs.outdated(bench.tag, retention=0, limit=100):
        await bench.jobs.purge(bench.tag, jobs, retention=0)


async def left(bench: Bench, redis: Redis) -> list[str]:
    names = [key.decode().removeprefix(bench.tag) async for key in redis.scan_iter(bench.tag + "*")]
    return [name for name in names if not KEPT.match(name) and await redis.ttl(bench.tag + name) < 0]


async def spawn(bench: Bench, parent: Holder, name: str) -> str:
    arguments = bench.arguments(new_id("job_"))
    child, _ = await SagaStore(bench.jobs).spawn(parent, name, arguments)
    return child


async def finish(bench: Bench, job_id: str) -> None:
    """Have an open job claimed and succeed."""
    await bench.store.client.zadd(bench.tag + "due", {f"{TENANT} {job_id}": 0}, xx=True)
    due = await bench.jobs.due(bench.tag, limit=100, lease=60, publish=True)
    message = next(message for message in due.messages if message.id == job_id)
    claim = await bench.held(message)
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="succeeded", result="1")


async def test_random_lives_leave_nothing(bench: Bench, redis: Redis) -> None:
    await bench.jobs.register({"echo": TaskType("default", 3, 60.0, max_running=2)})
    walks = [Walk(bench, random.Random(seed)) for seed in range(12)]
    for number, walk in enumerate(walks):
        await walk.begin()
        for _ in range(number):
            await walk.step()
    for walk in walks:
        if (await bench.job(walk.id))["finished_at"] is None:
            await bench.jobs.cancel(TENANT, walk.id)
    while any([(await bench.job(walk.id))["finished_at"] is None for walk in walks]):
        for walk in walks:
            await walk.lose()
    await bench.jobs.due(bench.tag, limit=100, lease=60, publish=True)
    await forget_all(bench)
    assert await left(bench, redis) == []
    assert await redis.hgetall(bench.tag + "waiting") in ({}, {b"echo": b"0"})


async def test_a_parent_that_runs_again_does_not_collect_the_children_of_former_runs(
    bench: Bench, redis: Redis
) -> None:
    job_id, _, claim = await bench.running()
    child = await spawn(bench, Holder.of(TENANT, job_id, claim), "a")
    await finish(bench, child)
    await forget_all(bench)
    assert await redis.zcard(f"{bench.tag}ix:{TENANT}:p:{job_id}") == 0


async def test_a_parent_forgotten_before_its_children_are_cancelled_does_not_come_back(
    bench: Bench, redis: Redis
) -> None:
    job_id, _, claim = await bench.running()
    child = await spawn(bench, Holder.of(TENANT, job_id, claim), "a")
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="failed", error=ERROR)
    await forget_all(bench)
    await bench.jobs.due(bench.tag, limit=100, lease=60, publish=True)
    await bench.jobs.cancel(TENANT, child)
    await forget_all(bench)
    assert await left(bench, redis) == []


async def test_a_foreign_job_nobody_was_told_to_stop_is_forgotten(bench: Bench, redis: Redis) -> None:
    job_id, foreign = new_id("job_"), ForeignJobs(bench.store, bench.settings, "celery", silence=60)
    born = Birth("c-1", "sums", "ann", (), "{}", 3, TRACE)
    await foreign.observe(TENANT, [Seen(job_id, Change("queued"), born), Seen(job_id, Change("running", by="a"))])
    await bench.jobs.cancel(TENANT, job_id)
    await foreign.observe(TENANT, [Seen(job_id, Change("cancelled"))])
    assert json.loads((await bench.jobs.find(TENANT, limit=1))[0][0])["status"] == "cancelled"
    await forget_all(bench)
    assert await left(bench, redis) == []


async def test_a_record_that_cannot_be_read_holds_up_neither_lists_nor_forgetting(bench: Bench, redis: Redis) -> None:
    letters = DeadLetters(bench.store, None, bench.settings)
    ids = []
    for _ in range(2):
        job_id, _, claim = await bench.running()
        await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="failed", error=ERROR)
        ids.append(job_id)
    bad, good = ids
    await redis.hset(f"{bench.tag}job:{TENANT}:{bad}", "d", "\x93broken")
    found, _ = await bench.jobs.find(TENANT, limit=10)
    assert [json.loads(job)["id"] for job in found] == [good]
    dead = await letters.find(TENANT, Filter(), limit=10, bare=True)
    assert (dead.items, dead.total) == ([good.encode()], 2)  # it is none, and none is lost: `jobs rebuild` repairs it
    assert (await bench.jobs.pressure(TENANT, tenant=TENANT)).ended == 1
    await forget_all(bench)
    # What only its record could tell is cleared by whoever looks.
    assert (await letters.find(TENANT, Filter(), limit=10)).total == 1
    assert (await letters.find(TENANT, Filter(), limit=10)).total == 0
    for index in ({"type": "echo"}, {"owner": "ann"}):
        assert (await bench.jobs.find(TENANT, limit=10, **index))[0] == []
    assert await left(bench, redis) == []


async def test_a_record_that_cannot_be_read_does_not_keep_the_in_process_queue_from_starting(
    bench: Bench, redis: Redis
) -> None:
    ids = [(await bench.queued()).id for _ in range(2)]
    await redis.hset(f"{bench.tag}job:{TENANT}:{ids[0]}", "d", "\x93broken")
    assert await bench.jobs.requeue(bench.tag, "default", limit=10) == 2
    due = await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True)
    assert [message.id for message in due.messages] == [ids[1]]
