"""The relay as a process that is killed: every event once, in order."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aio_pika
import pytest
from redis.asyncio import Redis

from gateway.events import Position
from gateway.jobs.rabbitmq_events import EVENTS, QUEUE, declare_events
from gateway.jobs.topology import Limits
from gateway.settings import load
from gateway.store.channels import ChannelStore
from gateway.store.redis import Store
from tests.e2e.stack import stack
from tests.support.brokers import plain
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults
CHANNEL = "long:relayed"
RULES = json.dumps({"long": {"history_size": 100_000}})


@pytest.mark.parametrize(
    ("events", "kills"), [(3000, 3), pytest.param(50_000, 10, marks=pytest.mark.faults_long)], ids=["short", "long"]
)
@pytest.mark.timeout(500)
async def test_killed_again_and_again_it_records_every_event_once_and_in_order(
    redis_url: str, redis: Redis, amqp_url: str, tmp_path: Path, events: int, kills: int
) -> None:
    del redis  # emptied
    settings = load({"GATEWAY_REDIS_URL": redis_url, "GATEWAY_CHANNELS": RULES})
    async with Store.open(settings) as store:
        channels = ChannelStore(store, settings)

        async def recorded() -> int:
            return (await channels.position("default", CHANNEL)).offset

        async def past(number: int) -> bool:
            return await recorded() > number

        await _publish(amqp_url, events)
        with stack(redis_url, amqp_url, tmp_path, GATEWAY_CHANNELS=RULES) as running:
            for round_ in range(kills):
                relay = running.run("consumers", "relay")
                mark = events * round_ // (kills + 1)
                await eventually(lambda mark=mark: past(mark), 60)  # type: ignore[misc] # mypy cannot infer it
                await asyncio.to_thread(relay.kill)
            survivor = running.run("consumers", "relay")
            await eventually(lambda: past(events - 1), 120)
            found = await channels.history("default", CHANNEL, since=Position("", 0), limit=-1)
            numbers = [json.loads(publication.event)["data"] for publication in found.publications]
            assert numbers == list(range(events))
            assert await asyncio.to_thread(survivor.stop) == 0
    print(f"{events} events, {kills} kills: each once, in order")  # noqa: T201 - the run's count


async def _publish(url: str, count: int) -> None:
    async with plain(url) as amqp_channel:
        await declare_events(amqp_channel, Limits())
        await (await amqp_channel.get_queue(QUEUE)).purge()
        exchange = await amqp_channel.get_exchange(EVENTS, ensure=False)
        for begin in range(0, count, 1000):
            async with asyncio.TaskGroup() as tasks:
                for number in range(begin, min(begin + 1000, count)):
                    message = aio_pika.Message(b"%d" % number, message_id=f"n{number}", delivery_mode=2)
                    tasks.create_task(exchange.publish(message, CHANNEL))
