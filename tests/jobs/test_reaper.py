"""Reapers on a real Redis and a real RabbitMQ: everything due happens once, whatever is away."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from gateway.errors import NotFound
from gateway.jobs import reaper as module
from gateway.jobs.queue import Message
from gateway.jobs.rabbitmq import RabbitQueue
from gateway.jobs.reaper import Reaper
from gateway.jobs.records import Claim, Due
from gateway.jobs.store import JobStore
from tests.consumers.support import TENANT, Bench, background, open_bench
from tests.support.messages import PREFETCH, Inbox
from tests.support.proxy import TcpProxy
from tests.support.waiting import eventually

WORKER = {"token": "t", "worker": "w"}


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[TcpProxy]:
    """The way to the broker, which the test may cut."""
    async with TcpProxy(urlsplit(amqp_url).port or 0) as proxy:
        yield proxy


@pytest.fixture
async def bench(
    redis_url: str, redis: Redis, amqp_url: str, broker: TcpProxy, pool: str, tmp_path: Path
) -> AsyncIterator[Bench]:
    del redis  # emptied
    async with RabbitQueue(broker.url(amqp_url)) as queue:
        await queue.declare(pool)
        async with open_bench(redis_url, queue, pool, attachments_dir=str(tmp_path)) as bench:
            await bench.register("echo")
            yield bench


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put off comes again within the test."""
    monkeypatch.setattr(module, "PUT_OFF", (0.5, 0.6))
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.2)


async def scheduled(bench: Bench, count: int) -> list[str]:
    """Jobs that only a reaper will publish, and their time has come."""
    ids = [await bench.submit(value=number, delay=3600) for number in range(count)]
    await bench.make_due(*ids)
    return ids


async def statuses(bench: Bench, ids: list[str]) -> Counter[str]:
    return Counter([(await bench.job(job_id))["status"] for job_id in ids])


async def test_four_reapers_publish_each_due_job_once(bench: Bench, amqp_url: str, redis_url: str) -> None:
    ids = await scheduled(bench, 250)  # more than one batch
    inbox = Inbox()
    async with AsyncExitStack() as stack:
        queues = [await stack.enter_async_context(RabbitQueue(amqp_url)) for _ in range(3)]
        others = [await stack.enter_async_context(open_bench(redis_url, queue, bench.pool)) for queue in queues]
        await stack.enter_async_context(bench.queue.consume(bench.pool, {"default": 1000}, inbox))
        await stack.enter_async_context(background(*(one.reaper().run() for one in (bench, *others))))

        async def all_queued() -> bool:
            return await statuses(bench, ids) == {"queued": len(ids)}

        await eventually(all_queued, 30)
        await eventually(lambda: len(inbox) == len(ids))
    assert sorted(inbox.ids) == sorted(ids)
    assert [delivery.message.attempt for delivery in inbox.deliveries] == [1] * len(ids)


async def test_a_lost_lease_becomes_the_next_attempt(bench: Bench) -> None:
    job_id = await bench.submit()
    inbox = Inbox()
    async with bench.queue.consume(bench.pool, PREFETCH, inbox):
        await eventually(lambda: len(inbox) == 1)
        claim = await bench.jobs.claim(inbox.deliveries[0].message, lease=0.05, **WORKER)
        assert isinstance(claim, Claim)
        async with background(bench.reaper().run()):
            await eventually(lambda: len(inbox) == 2)
            job = await bench.until(job_id, "queued")
        again = inbox.deliveries[1].message
        assert (again.id, again.run, again.attempt) == (job_id, 1, 2)
        assert job["error"]["type"] == "WorkerLost"
        assert isinstance(await bench.jobs.claim(again, lease=60, **WORKER), Claim)


async def test_a_living_lease_is_left_alone(bench: Bench) -> None:
    job_id = await bench.submit()
    message = await bench.message(job_id)
    assert isinstance(await bench.jobs.claim(message, lease=60, **WORKER), Claim)
    later = (await bench.due())[job_id]
    reaper = bench.reaper()
    for _ in range(3):
        await reaper.step(bench.tag)
    assert (await bench.job(job_id))["status"] == "running"
    assert (await bench.due())[job_id] == later


class Counting(JobStore):
    """Counts how often what is due is asked for."""

    steps = 0

    async def due(self, *arguments: Any, **options: Any) -> Due:
        self.steps += 1
        return await super().due(*arguments, **options)


async def test_while_the_broker_is_away_nothing_is_lost_and_nobody_hurries(bench: Bench, broker: TcpProxy) -> None:
    ids = await scheduled(bench, 250)
    store = bench.jobs = Counting(bench.store)
    inbox = Inbox()
    broker.cut()
    await eventually(lambda: not bench.queue.healthy())
    async with background(bench.reaper().run()):
        await eventually(lambda: store.steps >= 3)
        before = store.steps
        await asyncio.sleep(1.5)  # a time in which a busy loop would show
        # Four looks a second, and three batches each time the jobs come again.
        assert store.steps - before <= 20
        assert await statuses(bench, ids) == {"scheduled": 250}
        assert set(await bench.due()) == set(ids)
        broker.resume()
        async with bench.queue.consume(bench.pool, {"default": 1000}, inbox):
            await eventually(lambda: len(inbox) == 250, 30)
            assert sorted(inbox.ids) == sorted(ids)


async def test_a_queue_that_is_missing_holds_up_no_other(bench: Bench, pool: str) -> None:
    nowhere = f"{pool}-b"
    await bench.jobs.register({"nowhere": (nowhere, 5, 60)})
    lost = [await bench.submit("nowhere", delay=3600) for _ in range(10)]
    await bench.make_due(*lost)
    store = bench.jobs = Counting(bench.store)
    async with background(bench.reaper().run()):
        (good,) = await scheduled(bench, 1)
        await bench.until(good, "queued")
        assert await statuses(bench, lost) == {"scheduled": 10}
        before = store.steps
        await asyncio.sleep(1)  # a time in which a busy loop would show
        assert store.steps - before <= 15
        await bench.queue.declare(nowhere)
        await bench.make_due(*lost)

        async def published() -> bool:
            return await statuses(bench, lost) == {"queued": 10}

        await eventually(published)


async def test_redis_away_only_makes_it_wait(bench: Bench, redis_url: str) -> None:
    async with (
        TcpProxy(urlsplit(redis_url).port or 0) as way,
        open_bench(way.url(redis_url), bench.queue, bench.pool, store_class=Counting) as other,
        background(other.reaper().run()),
    ):
        way.cut()
        store = other.jobs
        assert isinstance(store, Counting)
        before = store.steps
        (job_id,) = await scheduled(bench, 1)
        await eventually(lambda: store.steps > before + 1)  # it has met the cut
        assert await statuses(bench, [job_id]) == {"scheduled": 1}
        way.resume()
        await bench.until(job_id, "queued")


class CutAfterPublishing(RabbitQueue):
    """Redis is away as soon as something is published."""

    way: TcpProxy | None = None
    published = 0

    async def publish(self, message: Message) -> None:
        await super().publish(message)
        self.published += 1
        if self.way is not None:
            self.way.cut()


async def test_redis_dying_between_publish_and_queued_does_not_end_the_reaper(
    bench: Bench, redis_url: str, amqp_url: str
) -> None:
    async with (
        TcpProxy(urlsplit(redis_url).port or 0) as way,
        CutAfterPublishing(amqp_url) as queue,
        open_bench(way.url(redis_url), queue, bench.pool) as other,
        background(other.reaper().run()),
    ):
        queue.way = way
        first, second = await scheduled(bench, 2)
        await eventually(lambda: queue.published == 2)
        queue.way = None
        way.resume()
        assert await statuses(bench, [first, second]) == {"scheduled": 2}
        await bench.make_due(first, second)  # their leases have ended
        await bench.until(first, "queued")
        await bench.until(second, "queued")


async def test_what_has_not_started_in_time_expires(bench: Bench) -> None:
    await bench.jobs.register({"nowhere": (f"{bench.pool}-b", 5, 60)})
    queued = await bench.submit(ttl=0.3)
    accepted = await bench.submit("nowhere", ttl=0.3)
    assert await statuses(bench, [queued, accepted]) == {"queued": 1, "accepted": 1}
    stale = await bench.message(queued)
    async with background(bench.reaper().run()):
        await bench.until(queued, "expired")
        await bench.make_due(accepted)
        await bench.until(accepted, "expired")
    assert await bench.ends(queued) == await bench.ends(accepted) == ["job.expired"]
    assert await bench.jobs.claim(stale, lease=60, **WORKER) == "expired"
    assert await bench.store.client.hget(bench.tag + "open", TENANT) == b"0"


@pytest.mark.parametrize("delay", [None, 3600])
async def test_a_job_expires_at_its_time_although_nothing_else_is_due(bench: Bench, delay: float | None) -> None:
    await bench.jobs.register({"nowhere": (f"{bench.pool}-b", 5, 60)})
    async with background(bench.reaper().run()):
        job_id = await bench.submit("nowhere", ttl=0.2, delay=delay)
        await bench.until(job_id, "expired", 2)


async def test_purging_takes_the_attachments_along(bench: Bench) -> None:
    old, young = await bench.submit(), await bench.submit()
    for job_id in (old, young):
        await bench.attachments.write(TENANT, job_id, "a.txt", b"x", "text/plain")
    await bench.service.cancel(TENANT, old)
    settings = bench.with_settings(job_retention=0.001)
    await asyncio.sleep(0.005)  # longer than it is kept
    reaper = Reaper(bench.jobs, bench.queue, settings, bench.attachments.forget)
    async with background(reaper.run()):

        async def forgotten() -> bool:
            return await bench.jobs.get(TENANT, old) is None

        await eventually(forgotten)
    with pytest.raises(NotFound):
        await bench.attachments.read(TENANT, old, "a.txt")
    assert await bench.log(old) == []
    assert (await bench.attachments.read(TENANT, young, "a.txt")).size == 1
    assert (await bench.job(young))["status"] == "queued"
