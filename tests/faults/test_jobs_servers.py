"""RabbitMQ and Redis are stopped, killed and put back to less, under load: what was accepted ends once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from consumers.worker import ahead
from gateway.jobs.rabbitmq import RabbitQueue
from tests.e2e.stack import client
from tests.faults import work
from tests.faults.jobs import LONG, SHORT, JobScene, Servers, job_scene
from tests.support.servers import RabbitServer, RedisServer
from tests.support.waiting import eventually

RATE = 60


async def down_for(server: RabbitServer | RedisServer, seconds: float, *, killed: bool) -> None:
    await asyncio.to_thread(server.kill if killed else server.stop)
    await asyncio.sleep(seconds)  # the length of the outage is the point
    await asyncio.to_thread(server.start)


@pytest.mark.parametrize(
    ("count", "seconds", "kills"), [pytest.param(250, 3, 1, marks=SHORT), pytest.param(3000, 20, 5, marks=LONG)]
)
async def test_rabbitmq_stopped_and_killed(
    servers: Servers, own_rabbit: RabbitServer, tmp_path: Path, count: int, seconds: float, kills: int
) -> None:
    async with job_scene(servers._replace(amqp=own_rabbit.url), tmp_path, workers=2) as here:
        async with here.load.running(count, RATE, seconds=0.3, failing=20):
            await here.load.reached(count // 5)
            # The orderly one first: RabbitMQ 3.10 can lose the term of a quorum queue that is killed when it is new.
            await down_for(own_rabbit, seconds, killed=False)
            for number in range(kills):
                await here.ended((number + 1) * count // (kills + 1))
                await down_for(own_rabbit, 0, killed=True)
        assert here.load.answers == {202: here.load.answers.total()}, "nobody who submits hears of it"
        assert here.lines("worker.dropped"), "nothing was under way when the broker went"
        await here.finish(f"RabbitMQ stopped for {seconds} s, and killed")


@pytest.mark.parametrize(("count", "times"), [pytest.param(250, 1, marks=SHORT), pytest.param(3000, 8, marks=LONG)])
async def test_redis_restarted_and_killed(amqp_url: str, tmp_path: Path, count: int, times: int) -> None:
    """Every write is on disk before it is answered (`appendfsync always`): nothing at all may be lost."""
    with RedisServer(appendfsync="always") as server:
        async with job_scene(Servers(server.url, amqp_url), tmp_path, workers=2) as here:
            async with here.load.running(count, RATE, seconds=0.1, failing=20):
                for number in range(2 * times):
                    await here.load.reached((number + 1) * count // (2 * times + 1))
                    await down_for(server, 1, killed=number % 2 == 1)
            assert here.load.answers[503], "Redis was missed"
            await here.finish("Redis restarted and killed, with every write synced")
            assert all(listener.told for listener in here.listeners)


@pytest.mark.parametrize(("count", "times"), [pytest.param(3000, 15, marks=LONG)])
async def test_redis_killed_as_operators_run_it(
    own_redis: RedisServer, amqp_url: str, tmp_path: Path, count: int, times: int
) -> None:
    """Writes are on disk within a second (`everysec`): what the machine had taken survives the process."""
    async with job_scene(Servers(own_redis.url, amqp_url), tmp_path, workers=2) as here:
        here.may_forget()
        async with here.load.running(count, RATE, seconds=0.1):
            for number in range(times):
                await here.load.reached((number + 1) * count // (times + 1))
                await down_for(own_redis, 0.5, killed=True)
        await here.finish("Redis killed, synced every second")


@pytest.mark.parametrize(("count", "times"), [pytest.param(150, 1, marks=SHORT), pytest.param(3000, 10, marks=LONG)])
async def test_redis_back_with_less(
    own_redis: RedisServer, amqp_url: str, tmp_path: Path, count: int, times: int
) -> None:
    """The last second of everything is forgotten, as when the machine fails."""
    async with job_scene(Servers(own_redis.url, amqp_url), tmp_path, workers=2) as here:
        here.may_forget()
        # More than the workers can do: many jobs are queued, and some of them end in the second that is lost.
        async with here.load.running(count, 4 * RATE, seconds=1):
            for number in range(times):
                await here.ended((number + 1) * count // (times + 3))
                own_redis.keep()
                await asyncio.sleep(1.5)  # what happens meanwhile is lost
                await asyncio.to_thread(own_redis.kill)
                own_redis.rewind()
                await asyncio.to_thread(own_redis.start)
        await here.finish("Redis back with less")


@pytest.mark.parametrize("count", [pytest.param(100, marks=SHORT)])
async def test_workers_take_nothing_while_redis_is_away(
    own_redis: RedisServer, amqp_url: str, tmp_path: Path, count: int
) -> None:
    async with job_scene(Servers(own_redis.url, amqp_url), tmp_path, workers=0) as here:
        busy = await here.worker("--concurrency", "5")
        here.receiver.gate.clear()
        await here.load.submit(count, seconds=0)
        await here.receiver.reached(5)
        await asyncio.to_thread(own_redis.stop)
        await refused(here)
        idle = here.start_worker("--concurrency", "5")
        await asyncio.to_thread(idle.wait_for, "store.waiting")
        await asyncio.sleep(3)  # longer than a lease: nobody could extend one, and that is no worker's fault
        async with RabbitQueue(amqp_url) as queue:
            held = 2 * (5 + ahead(5))
            assert sum((await queue.depth(here.pool)).values()) == count - held, "no more than the hands are full"
        assert len(here.receiver.calls) == 5
        await asyncio.to_thread(own_redis.start)
        await eventually(here.ready, 30)
        await here.receiver.reached(10)
        here.receiver.gate.set()
        await here.settled()
        assert here.workers == [busy, idle], "they went on by themselves"
        audit = await here.finish("workers without Redis")
        assert audit.attempts == count + 1, "what ran while Redis was away was recorded, not run again"
        assert here.receiver.repeats == 0


async def refused(here: JobScene) -> None:
    """Submissions are refused, and readiness says so; the process lives."""
    assert not await here.ready()
    async with client(here.url) as http:
        answer = await http.post("/v1/jobs", json={"type": work.TYPE})
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert (await http.get("/healthz")).status_code == 200
