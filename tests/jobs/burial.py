"""A bench with an undertaker, and the ways to it: what is refused, worn out, or no message at all."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pytest

from gateway.errors import QueueUnavailable
from gateway.jobs import consumption
from gateway.jobs.dead_filter import Filter
from gateway.jobs.deadletters import DeadLetters
from gateway.jobs.queue import DELIVERY_LIMIT, Delivery, JobQueue
from gateway.jobs.rebuild import Rebuilder
from gateway.jobs.undertaker import Undertaker
from gateway.store.deadletters import DeadLetterStore
from tests.consumers.support import TENANT, Bench, background, open_bench
from tests.support.brokers import plain
from tests.support.messages import PREFETCH, Inbox
from tests.support.waiting import eventually


class World:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.letters = DeadLetterStore(bench.store, bench.settings)
        self.dead = DeadLetters(bench.store, bench.queue, bench.settings)

    def undertaker(self, **options: float) -> Undertaker:
        rebuilder = Rebuilder(self.bench.jobs, self.bench.channels, self.bench.settings)
        return Undertaker(self.bench.store, self.bench.queue, self.letters, rebuilder, **options)

    @asynccontextmanager
    async def burying(self, **options: float) -> AsyncIterator[None]:
        async with background(self.undertaker(**options).run()):
            yield

    async def listed(self, owner: str = TENANT) -> list[dict[str, Any]]:
        found = await self.dead.find(owner, Filter(), limit=100)
        return [json.loads(item) for item in found.items]

    async def until(self, count: int, owner: str = TENANT) -> list[dict[str, Any]]:
        async def there() -> list[dict[str, Any]]:
            found = await self.listed(owner)
            return found if len(found) == count else []

        return await eventually(there, 30)

    async def until_empty(self) -> None:
        """Nothing waits, and nothing is held."""

        async def empty() -> bool:
            try:
                return await self.bench.queue.dead_depth() == 0
            except QueueUnavailable:  # the broker was restarted, and the publisher comes back later than a consumer
                return False

        await eventually(empty, 30)


@asynccontextmanager
async def open_world(queue: JobQueue, redis_url: str, pool: str) -> AsyncIterator[World]:
    async with queue:
        await queue.declare(pool)
        async with open_bench(redis_url, queue, pool) as bench:
            await bench.register("echo")
            yield World(bench)


async def reject(queue: JobQueue, pool: str, reason: str) -> None:
    inbox = Inbox()
    async with queue.consume(pool, PREFETCH, inbox):
        await eventually(lambda: len(inbox) == 1)
        await inbox.deliveries[0].reject(reason)


async def wear_out(queue: JobQueue, pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a message delivered until the queue gives it up."""
    monkeypatch.setattr(consumption, "FAILED_NAP", 0.01)
    tries = 0

    async def fail(delivery: Delivery) -> None:
        del delivery
        nonlocal tries
        tries += 1
        raise RuntimeError("before the claim")

    async with queue.consume(pool, PREFETCH, fail):
        await eventually(lambda: tries >= DELIVERY_LIMIT)

        async def gone() -> bool:
            return sum((await queue.depth(pool)).values()) == 0 and await queue.dead_depth() > 0

        await eventually(gone)


async def send(world: World, body: bytes, **properties: Any) -> None:
    """Publish bytes straight to a work queue."""
    async with plain(world.bench.queue._url) as amqp_channel:  # type: ignore[attr-defined] # it is a RabbitQueue
        message = aio_pika.Message(body, delivery_mode=2, **properties)
        await amqp_channel.default_exchange.publish(message, f"jobs.{world.bench.pool}.default")
