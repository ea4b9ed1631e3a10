"""Every test of this folder runs on every job queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from gateway.jobs.queue import JobQueue
from tests.support.brokers import Broker, Local, Rabbit


@pytest.fixture(params=["local", "rabbit"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    async with AsyncExitStack() as stack:
        if request.param == "local":
            yield Local(stack)
        else:
            yield Rabbit(stack, request.getfixturevalue("amqp_url"))


@pytest.fixture
async def queue(broker: Broker, pool: str) -> JobQueue:
    queue = await broker.open()
    await queue.declare(pool)
    return queue
