"""The parts of authentication on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from gateway.settings import Settings, load
from gateway.store.redis import Store

ROOT_KEY = "the-root-key-of-this-test"


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return load({"GATEWAY_REDIS_URL": redis_url, "GATEWAY_ROOT_KEY": ROOT_KEY})


@pytest.fixture
async def store(settings: Settings, redis: Redis) -> AsyncIterator[Store]:
    del redis  # emptied
    async with Store.open(settings) as opened:
        yield opened


@pytest.fixture
async def store_away() -> AsyncIterator[Store]:
    """A store whose Redis is not there."""
    async with Store.open(load({"GATEWAY_REDIS_URL": "redis://127.0.0.1:1"})) as opened:
        yield opened
