"""A running product for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.e2e.stack import Stack, stack
from tests.faults.jobs import Servers


@pytest.fixture
def product(redis_url: str, amqp_url: str, redis: Redis, tmp_path: Path) -> Iterator[Stack]:
    """A stack on the shared servers, with an empty Redis. The test starts what it needs."""
    del redis  # emptied
    with stack(redis_url, amqp_url, tmp_path) as running:
        yield running


@pytest.fixture
def servers(redis_url: str, amqp_url: str, redis: Redis) -> Servers:
    """The shared ones, with an empty Redis."""
    del redis  # emptied
    return Servers(redis_url, amqp_url)
