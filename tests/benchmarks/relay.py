"""What the relay makes of events from RabbitMQ, beside its floor: the same events recorded without a broker.

The queue is filled first. The relay then empties it, as after an outage; its rate counts from the first event recorded.
The floor records the same events with `publish_many`, as many at a time as the relay gets from the broker.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import aio_pika
from rich.console import Console
from rich.table import Table

from consumers.relay import Relay
from consumers.relay_message import STRUCTURED, read
from gateway.jobs.queue import Incoming
from gateway.jobs.rabbitmq_events import EVENTS, QUEUE, declare_events
from gateway.jobs.rabbitmq_intake import PREFETCH
from gateway.settings import Settings, load
from gateway.store.channels import ChannelStore
from gateway.store.redis import Store
from tests.support.servers import RabbitServer, RedisServer

Results = list[dict[str, Any]]
TENANT = "default"
CHANNELS = 100
LIMIT = 120.0
ROWS = ("publish_many alone", "relay")


class Plan(NamedTuple):
    """How much.

    Attributes:
        events: in a round.
        rounds: of which the median is shown.
    """

    events: int = 20_000
    rounds: int = 3


QUICK = Plan(events=300, rounds=1)


def message(number: int) -> tuple[bytes, str]:
    """Write an event of about 300 bytes, and say on which channel it goes."""
    channel = f"orders:{number % CHANNELS}"
    event = {
        "specversion": "1.0",
        "id": f"evt-{number}",
        "source": "/shop",
        "type": "order.paid",
        "subject": str(number),
        "data": {"order": number, "note": "x" * 150},
    }
    return json.dumps({**event, "channels": channel}).encode(), channel


async def floor(store: Store, settings: Settings, plan: Plan) -> float:
    """Record the events of a round; returns how many a second."""
    channels = ChannelStore(store, settings)
    found = [Incoming(*message(number), STRUCTURED, {}) for number in range(plan.events)]
    began = time.monotonic()
    for start in range(0, plan.events, PREFETCH):
        events = [read(incoming).outgoing for incoming in found[start : start + PREFETCH]]
        await channels.publish_many(TENANT, events)
    return plan.events / (time.monotonic() - began)


async def fill(url: str, plan: Plan) -> None:
    """Put the events of a round into the relay's queue."""
    async with await aio_pika.connect(url) as connection, connection.channel() as amqp_channel:
        await declare_events(amqp_channel)
        await (await amqp_channel.get_queue(QUEUE)).purge()
        exchange = await amqp_channel.get_exchange(EVENTS, ensure=False)
        for start in range(0, plan.events, 1000):
            async with asyncio.TaskGroup() as tasks:
                for number in range(start, min(start + 1000, plan.events)):
                    body, channel = message(number)
                    written = aio_pika.Message(body, content_type=STRUCTURED, delivery_mode=2)
                    tasks.create_task(exchange.publish(written, channel))


async def drain(store: Store, settings: Settings, plan: Plan) -> float:
    """Let the relay empty its queue; returns how many a second it recorded from the first batch on."""
    relay = _Watched(store, settings, plan.events)
    async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as tasks:
        tasks.create_task(relay.run())
        await relay.done.wait()
        relay.stop()
    return relay.rate()


class _Watched(Relay):
    """A relay that knows when it has had all of them."""

    def __init__(self, store: Store, settings: Settings, wanted: int) -> None:
        super().__init__(store, settings)
        self._left = wanted
        self._wanted = wanted
        self._began = self._ended = 0.0
        self.done = asyncio.Event()

    async def handle(self, messages: Sequence[Incoming]) -> None:
        self._began = self._began or time.monotonic()
        await super().handle(messages)
        self._left -= len(messages)
        if self._left <= 0:
            self._ended = time.monotonic()
            self.done.set()

    def rate(self) -> float:
        return self._wanted / (self._ended - self._began)


async def _measure(redis: RedisServer, rabbit: RabbitServer, plan: Plan, tell: Callable[[str], None]) -> Results:
    rates: dict[str, list[float]] = {name: [] for name in ROWS}
    settings = load({"GATEWAY_REDIS_URL": redis.url, "GATEWAY_AMQP_URL": rabbit.url})
    async with Store.open(settings) as store:
        for number in range(plan.rounds):
            await store.client.flushall()
            rates[ROWS[0]].append(await floor(store, settings, plan))
            await store.client.flushall()
            await fill(rabbit.url, plan)
            rates[ROWS[1]].append(await drain(store, settings, plan))
            tell(f"round {number + 1}: " + ", ".join(f"{name} {found[-1]:,.0f}/s" for name, found in rates.items()))
    return [{"name": name, "events_per_s": round(statistics.median(found))} for name, found in rates.items()]


def run(plan: Plan, tell: Callable[[str], None]) -> Results:
    """Measure on a Redis and a RabbitMQ of its own."""
    with RedisServer() as redis, RabbitServer() as rabbit:
        return asyncio.run(_measure(redis, rabbit, plan, tell))


def show(console: Console, results: Results) -> None:
    """Print the table."""
    table = Table("", "events/s", title="Events of about 300 bytes from RabbitMQ to their channels")
    for row in results:
        table.add_row(row["name"], f"{row['events_per_s']:,}")
    console.print(table)
