"""Submitting (DESIGN 4.2) with a broker that is up, down, full, silent; repeating; waiting."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from gateway.errors import (
    IdempotencyInFlight,
    IdempotencyMismatch,
    QueueFull,
    StoreUnavailable,
)
from gateway.jobs.amqp import PUBLISH_LIMIT
from gateway.jobs.local import LocalQueue
from gateway.jobs.queue import Message
from gateway.jobs.rabbitmq import RabbitQueue
from gateway.jobs.records import Claim
from gateway.jobs.store import JobStore
from gateway.jobs.topology import Limits
from tests.consumers.support import TENANT, Bench, background, open_bench
from tests.jobs.bench import dump
from tests.support.messages import PREFETCH, Inbox, make_message
from tests.support.proxy import TcpProxy
from tests.support.waiting import eventually

ANSWERED = 10  # seconds: the publisher's limit, and a lot: without one it would be for ever
WORKER: dict[str, Any] = {"worker": "w", "lease": 60}


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[TcpProxy]:
    """The way to the broker, which the test may break."""
    async with TcpProxy(urlsplit(amqp_url).port or 0) as proxy:
        yield proxy


@pytest.fixture
async def bench(redis_url: str, redis: Redis, amqp_url: str, broker: TcpProxy, pool: str) -> AsyncIterator[Bench]:
    del redis  # emptied
    async with RabbitQueue(broker.url(amqp_url)) as queue, open_bench(redis_url, queue, pool) as bench:
        await queue.declare(pool)
        await bench.register("echo")
        yield bench


@pytest.fixture
async def local(redis_url: str, redis: Redis, pool: str) -> AsyncIterator[Bench]:
    """A bench whose queue cannot fail."""
    del redis  # emptied
    async with LocalQueue() as queue, open_bench(redis_url, queue, pool) as bench:
        await queue.declare(pool)
        await bench.register("echo")
        yield bench


async def status(bench: Bench, job_id: str) -> str:
    return str((await bench.job(job_id))["status"])


@asynccontextmanager
async def published(bench: Bench, *job_ids: str) -> AsyncIterator[Inbox]:
    """A reaper and a consumer, once the jobs' messages have come."""
    inbox = Inbox()
    await bench.make_due(*job_ids)
    async with background(bench.reaper().run()), bench.queue.consume(bench.pool, PREFETCH, inbox):
        for job_id in job_ids:
            await bench.until(job_id, "queued", 30)
        await eventually(lambda: set(job_ids) <= set(inbox.ids))
        yield inbox


async def test_with_a_broker_a_job_is_queued(bench: Bench) -> None:
    answer = await bench.accept(value=[1], owner="ann", channels=("news",), priority="bulk")
    job = json.loads(answer.job)
    assert (job["status"], job["version"], answer.replayed) == ("queued", 2, False)
    assert (job["owner"], job["channels"], job["priority"]) == ("ann", ["news"], "bulk")
    assert await bench.queue.depth(bench.pool) == {"critical": 0, "default": 0, "bulk": 1}
    assert await bench.events(answer.id) == ["job.queued"]
    for channel in ("user:ann", "jobs", "news"):
        assert (await bench.channels.position(TENANT, channel)).offset == 1
    assert (await bench.due())[answer.id] > time.time() + 600  # nobody publishes it again soon


async def test_without_a_broker_a_job_is_accepted_at_once_and_published_later(bench: Bench, broker: TcpProxy) -> None:
    broker.cut()
    await eventually(lambda: not bench.queue.healthy())
    began = time.monotonic()
    first = await bench.accept(key="k")  # just lost: it may be back within the limit
    assert time.monotonic() - began < ANSWERED
    taken: dict[str, float] = {}
    for _ in range(3):
        began = time.monotonic()
        taken[await bench.submit()] = time.monotonic() - began
    assert min(taken.values()) < PUBLISH_LIMIT / 2  # it does not wait for what is known to be away
    assert json.loads(first.job)["status"] == "accepted"
    assert [await bench.events(job_id) for job_id in taken] == [[]] * 3
    assert await bench.accept(key="k") == first._replace(replayed=True)
    broker.resume()
    accepted = [first.id, *taken]
    async with published(bench, *accepted) as inbox:
        assert sorted(inbox.ids) == sorted(accepted)
    for job_id in accepted:
        assert await bench.events(job_id) == ["job.queued"]


async def test_a_full_queue_withdraws_the_job(redis_url: str, redis: Redis, amqp_url: str, pool: str) -> None:
    async with RabbitQueue(amqp_url, limits=Limits(length=2)) as queue, open_bench(redis_url, queue, pool) as bench:
        await queue.declare(pool)
        await bench.register("echo")
        await bench.submit(priority="bulk")  # what all jobs share exists
        await eventually(lambda: _refused(queue, pool))
        before = await dump(redis)
        with pytest.raises(QueueFull) as raised:
            await bench.accept(key="k", owner="ann", value={"a": 1})
        assert raised.value.retry_after
        await redis.delete(f"{bench.tag}ends:{pool}.default")  # the drain rate is kept for a second
        after = await dump(redis)
        (tombstone,) = set(after) - set(before)
        assert tombstone.startswith(f"{bench.tag}gone:{TENANT}:job_".encode())
        assert {key: value for key, value in after.items() if key != tombstone} == before
        assert await redis.hget(bench.tag + "open", TENANT) == b"1"
        inbox = Inbox()
        async with queue.consume(pool, {"default": 10}, inbox):
            await eventually(lambda: len(inbox) >= 2)
            for delivery in inbox.deliveries:
                await delivery.ack()
        answer = await eventually(lambda: _taken(bench))
        assert answer is not None
        assert not answer.replayed


async def _refused(queue: RabbitQueue, pool: str) -> bool:
    try:
        await queue.publish(make_message(pool))
    except QueueFull:
        return True
    return False


async def _taken(bench: Bench) -> Any:
    try:
        return await bench.accept(key="k", value="another request: the key is free again")
    except QueueFull:
        return None  # the broker notices a little late that there is room


class Scripted(LocalQueue):
    """A queue that does what the test wants when a job is published."""

    def __init__(self) -> None:
        super().__init__()
        self.bench: Bench | None = None
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()

    async def publish(self, message: Message) -> None:
        if self.bench is None:
            self.entered.set()
            await self.gate.wait()
            return
        await self.bench.jobs.claim(message, token="faster", **WORKER)
        raise QueueFull


async def test_a_job_that_went_on_is_not_withdrawn(redis_url: str, redis: Redis, pool: str) -> None:
    del redis
    async with Scripted() as queue, open_bench(redis_url, queue, pool) as bench:
        queue.bench = bench
        await bench.register("echo")
        answer = await bench.accept()
        assert json.loads(answer.job)["status"] == await status(bench, answer.id) == "running"


async def test_a_silent_broker_leaves_the_job_accepted_and_it_runs_once(bench: Bench, broker: TcpProxy) -> None:
    broker.stall()
    began = time.monotonic()
    job_id = await bench.submit()
    assert 1.5 < time.monotonic() - began < ANSWERED
    assert await status(bench, job_id) == "accepted"
    broker.resume()  # what was swallowed arrives after all
    async with published(bench, job_id) as inbox:
        await eventually(lambda: inbox.ids.count(job_id) == 2)
        claims = [
            await bench.jobs.claim(delivery.message, token=str(n), **WORKER)
            for n, delivery in enumerate(inbox.deliveries)
        ]
    assert isinstance(claims[0], Claim)
    assert claims[1] == "leased"
    assert await bench.events(job_id) == ["job.queued", "job.started"]


async def test_a_pool_no_worker_declared_keeps_its_jobs(bench: Bench, pool: str) -> None:
    bench.pool = f"{pool}-b"
    await bench.register("nowhere")
    job_id = await bench.submit("nowhere")
    assert await status(bench, job_id) == "accepted"
    await bench.queue.declare(bench.pool)
    async with published(bench, job_id) as inbox:
        assert inbox.ids == [job_id]


async def test_redis_dying_between_publish_and_queued(bench: Bench, redis_url: str) -> None:
    async with TcpProxy(urlsplit(redis_url).port or 0) as way:
        async with open_bench(way.url(redis_url), Cutting(bench.queue, way), bench.pool) as other:
            answer = await other.accept(key="k")
            assert json.loads(answer.job)["status"] == "accepted"
            with pytest.raises(StoreUnavailable):
                await other.accept()
        inbox = Inbox()
        async with bench.queue.consume(bench.pool, PREFETCH, inbox):
            await eventually(lambda: inbox.ids == [answer.id])
            claim = await bench.jobs.claim(inbox.deliveries[0].message, token="t", **WORKER)
    assert isinstance(claim, Claim)
    assert await bench.events(answer.id) == ["job.queued", "job.started"]


class Cutting(LocalQueue):
    """Publishes, and Redis is away."""

    def __init__(self, queue: Any, way: TcpProxy) -> None:
        super().__init__()
        self._queue = queue
        self._way = way

    async def publish(self, message: Message) -> None:
        await self._queue.publish(message)
        self._way.cut()


async def test_a_delayed_job_waits_in_the_due_set(local: Bench) -> None:
    answer = await local.accept(delay=60)
    assert json.loads(answer.job)["status"] == "scheduled"
    assert (await local.due())[answer.id] == pytest.approx(time.time() + 60, abs=5)
    assert sum((await local.queue.depth(local.pool)).values()) == 0


async def test_running_again_is_published_and_a_full_queue_does_not_undo_it(local: Bench) -> None:
    job_id = await local.submit()
    await local.service.cancel(TENANT, job_id)
    job = json.loads(await local.service.rerun(TENANT, job_id))
    assert (job["status"], job["run"]) == ("queued", 2)
    await local.service.cancel(TENANT, job_id)
    async with LocalQueue(max_length=0) as full:
        await full.declare(local.pool)
        local.service._queue = full
        job = json.loads(await local.service.rerun(TENANT, job_id))
    assert (job["status"], job["run"]) == ("accepted", 3)
    assert (await local.due())[job_id] < time.time() + 10


# Idempotency


async def test_a_repeated_key_gets_the_first_answer_whatever_happened_since(local: Bench) -> None:
    first = await local.accept(key="k", value=1)
    await local.service.cancel(TENANT, first.id)
    assert await local.accept(key="k", value=1) == first._replace(replayed=True)
    assert (await local.accept(key="other", value=1)).id != first.id
    with pytest.raises(IdempotencyMismatch):
        await local.accept(key="k", value=2)
    assert await local.store.client.zcard(f"{local.tag}ix:{TENANT}:all") == 2


async def test_a_key_whose_first_request_is_still_answered_is_told(redis_url: str, redis: Redis, pool: str) -> None:
    del redis
    async with Scripted() as queue, open_bench(redis_url, queue, pool) as bench, asyncio.TaskGroup() as tasks:
        await bench.register("echo")
        first = tasks.create_task(bench.accept(key="k"))
        await queue.entered.wait()
        with pytest.raises(IdempotencyInFlight) as raised:
            await bench.accept(key="k")
        assert raised.value.retry_after
        with pytest.raises(IdempotencyMismatch):
            await bench.accept(key="k", value="other")
        queue.gate.set()
        accepted = await first
        assert await bench.accept(key="k") == accepted._replace(replayed=True)


async def test_many_at_once_with_one_key_make_one_job(local: Bench) -> None:
    answers = await asyncio.gather(*(local.accept(key="k") for _ in range(10)), return_exceptions=True)
    accepted = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert len([answer for answer in accepted if not answer.replayed]) == 1
    assert all(isinstance(answer, IdempotencyInFlight) for answer in answers if answer not in accepted)
    assert await local.store.client.zcard(f"{local.tag}ix:{TENANT}:all") == 1


class NeverSettles(JobStore):
    """The answer cannot be kept."""

    async def settle(self, tenant: str, key: str, answer: bytes) -> None:
        del tenant, key, answer
        raise StoreUnavailable


async def test_a_key_whose_answer_was_lost_tells_the_job_as_it_is(local: Bench) -> None:
    local.service.store = NeverSettles(local.store)
    first = await local.accept(key="k")
    (idem,) = await local.store.client.keys(f"{local.tag}idem:*")
    await local.store.client.hset(idem, "until", "0")  # nobody can be answering it any more
    await local.service.cancel(TENANT, first.id)
    again = await local.accept(key="k")
    assert (again.id, again.replayed, json.loads(again.job)["status"]) == (first.id, True, "cancelled")
