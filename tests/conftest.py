"""What every test may use: private servers, started once when first asked for."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from tests.support.servers import RabbitServer, RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The shared Redis. A test that breaks it brings it back; better: it starts one of its own."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of the shared Redis, which is emptied first."""
    client = Redis.from_url(redis_url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
def rabbit_server() -> Iterator[RabbitServer]:
    """The shared RabbitMQ. A test that breaks it starts one of its own."""
    with RabbitServer() as server:
        yield server


@pytest.fixture(scope="session")
def amqp_url(rabbit_server: RabbitServer) -> str:
    return rabbit_server.url


@pytest.fixture
def pool() -> str:
    """The name of a pool nobody else uses: tests share the broker, never its queues."""
    return f"p{secrets.token_hex(4)}"
