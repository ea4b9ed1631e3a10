"""What every test may use: private servers, started once when first asked for."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from redis.asyncio import Redis

from tests.support.servers import RabbitServer, RedisServer

WORKERS = 4
LONGEST_FIRST = ("tests/faults/", "tests/benchmarks/", "tests/jobs/test_rabbitmq.py", "tests/server/test_workers.py")

# A busy machine is no fault of the code under test: examples have no time limits.
hypothesis_settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("busy")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Say what `-n auto` means: several for the whole suite, none for chosen files (`-s` works then).

    Tests mostly wait (serially they keep half a core busy), so it does not depend on the cores. A worker needs up to
    half a gigabyte: it starts a Redis and a RabbitMQ of its own.
    """
    return 0 if config.args_source is pytest.Config.ArgsSource.ARGS else WORKERS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that in the end no worker is alone with one of them."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST_FIRST))


@pytest.fixture(autouse=True)
def _logs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that a test runs in this process configures the logs: for that test only, and no logger keeps it."""
    configure = structlog.configure

    def uncached(**options: Any) -> None:
        configure(**{**options, "cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", uncached)
    yield
    structlog.reset_defaults()


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
def own_redis() -> Iterator[RedisServer]:
    """A Redis this test may break."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def own_rabbit() -> Iterator[RabbitServer]:
    """A RabbitMQ this test may break."""
    with RabbitServer() as server:
        yield server


@pytest.fixture
def pool() -> str:
    """The name of a pool nobody else uses: tests share the broker, never its queues."""
    return f"p{secrets.token_hex(4)}"
