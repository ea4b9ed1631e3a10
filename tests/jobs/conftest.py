"""Fixtures of the job tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from gateway.settings import load
from gateway.store.redis import Store
from tests.jobs.bench import Bench


@pytest.fixture
async def bench(redis_url: str, redis: Redis) -> AsyncIterator[Bench]:
    del redis  # emptied
    settings = load({"GATEWAY_REDIS_URL": redis_url})
    async with Store.open(settings) as store:
        bench = Bench(store, settings)
        await bench.jobs.register({"echo": ("default", 3, 60.0)})
        yield bench
