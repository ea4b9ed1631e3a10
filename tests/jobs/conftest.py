"""Fixtures of the job tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from gateway.jobs.deadletters import DeadLetters
from gateway.jobs.local import LocalQueue
from gateway.jobs.rabbitmq import RabbitQueue
from gateway.settings import load
from gateway.store.deadletters import DeadLetterStore
from gateway.store.redis import Store
from tests.jobs.bench import Bench
from tests.jobs.burial import World, open_world
from tests.support.servers import RabbitServer


@pytest.fixture
async def bench(redis_url: str, redis: Redis) -> AsyncIterator[Bench]:
    del redis  # emptied
    settings = load({"GATEWAY_REDIS_URL": redis_url})
    async with Store.open(settings) as store:
        bench = Bench(store, settings)
        await bench.jobs.register({"echo": ("default", 3, 60.0)})
        yield bench


@pytest.fixture
def letters(bench: Bench) -> DeadLetters:
    return DeadLetters(bench.store, LocalQueue(), bench.settings)


@pytest.fixture
def messages(bench: Bench) -> DeadLetterStore:
    return DeadLetterStore(bench.store, bench.settings)


@pytest.fixture(scope="module")
def rabbit() -> Iterator[RabbitServer]:
    """A broker whose dead letters are these tests' alone."""
    with RabbitServer() as server:
        yield server


@pytest.fixture
async def on_rabbit(rabbit: RabbitServer, redis_url: str, redis: Redis, pool: str) -> AsyncIterator[World]:
    del redis  # emptied
    async with open_world(RabbitQueue(rabbit.url), redis_url, pool) as world:
        yield world
