"""The undertaker when Redis is away, when it is killed, and when the broker restarts: no letter is lost."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.jobs import undertaker as module
from gateway.jobs.rabbitmq import RabbitQueue
from gateway.jobs.topology import DEAD_LETTERS
from gateway.store.deadletters import UNOWNED, DeadLetterStore
from tests.consumers.support import TENANT
from tests.jobs.burial import World, open_world, send, wear_out
from tests.support.brokers import plain
from tests.support.messages import PREFETCH, Inbox
from tests.support.proxy import TcpProxy
from tests.support.servers import RabbitServer
from tests.support.waiting import eventually


async def test_nothing_is_acknowledged_while_redis_is_away(
    rabbit: RabbitServer, redis_url: str, redis: Redis, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del redis  # emptied
    monkeypatch.setattr(module, "AWAY_NAP", 0.05)
    async with (
        TcpProxy(urlsplit(redis_url).port or 0) as proxy,
        open_world(RabbitQueue(rabbit.url), proxy.url(redis_url), pool) as world,
    ):
        queue = world.bench.queue
        proxy.cut()
        await send(world, b"no job")
        inbox = Inbox()
        with capture_logs() as logs:
            async with world.burying(), queue.consume(pool, PREFETCH, inbox):
                await eventually(lambda: any(line["event"] == "undertaker.waiting" for line in logs))

        async def waits() -> bool:
            return await queue.dead_depth() == 1

        await eventually(waits)  # the undertaker has ended, and the letter is where it was
        proxy.resume()
        async with world.burying():
            await world.until(1, UNOWNED)
            await world.until_empty()


@pytest.mark.faults
async def test_killed_between_record_and_acknowledgement_it_records_nothing_twice(
    on_rabbit: World, rabbit: RabbitServer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = on_rabbit.bench
    job_id = await bench.submit()
    await wear_out(bench.queue, bench.pool, monkeypatch)
    inbox = Inbox()
    async with bench.queue.consume(bench.pool, PREFETCH, inbox):
        await send(on_rabbit, b"no job")

        async def both() -> bool:
            return await bench.queue.dead_depth() == 2

        await eventually(both)
    environment = {"GATEWAY_REDIS_URL": redis_url, "GATEWAY_AMQP_URL": rabbit.url, "PYTHONPATH": str(Path.cwd())}
    for _ in range(3):
        command = [sys.executable, "-m", "tests.jobs.dying_undertaker"]
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.DEVNULL)
        assert await process.wait() == -signal.SIGKILL
        await eventually(both)  # the broker has taken back what nobody acknowledged
    async with on_rabbit.burying():
        await on_rabbit.until_empty()
        (letter,) = await on_rabbit.until(1, UNOWNED)

    assert letter["message"]["times"] >= 2
    assert await on_rabbit.listed() == []
    assert (await bench.job(job_id))["status"] == "accepted"
    assert await bench.events(job_id) == ["job.queued"]
    assert list(await bench.due()) == [job_id]
    ops = await bench.channels.history(TENANT, "ops", since=None, limit=100)
    assert sum(item.type == "dead-letters.opened" for item in ops.publications) <= 1


@pytest.mark.faults
async def test_a_restart_of_the_broker_loses_no_letter(
    redis_url: str, redis: Redis, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del redis  # emptied
    bodies = [b"no job %d" % number for number in range(60)]
    recorded = asyncio.Event()
    bury = DeadLetterStore.bury

    async def slowly(self: DeadLetterStore, *args: Any, **facts: Any) -> str:
        await asyncio.sleep(0.02)
        recorded.set()
        return await bury(self, *args, **facts)

    monkeypatch.setattr(DeadLetterStore, "bury", slowly)
    with RabbitServer() as server:
        async with open_world(RabbitQueue(server.url), redis_url, pool) as world:
            async with plain(server.url) as amqp_channel:
                for body in bodies:
                    message = aio_pika.Message(body, delivery_mode=2, headers={"x-reason": "undecodable: no"})
                    await amqp_channel.default_exchange.publish(message, DEAD_LETTERS)
            async with world.burying():
                await recorded.wait()
                await asyncio.to_thread(server.restart)
                letters = await world.until(len(bodies), UNOWNED)
                await world.until_empty()
            assert len({letter["id"] for letter in letters}) == len(bodies)
