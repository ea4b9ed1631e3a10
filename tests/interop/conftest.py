"""Other people's clients against the whole product: programs in Node, two gateways and a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.e2e.stack import Stack, stack
from tests.interop.support import Pair, Program, Switch, port_of, program

RunProgram = Callable[..., Awaitable[Program]]
CHAT = (
    '{"chat": {"subscribe": "authenticated", "publish": "authenticated"},'
    ' "room": {"subscribe": "authenticated", "presence": true}}'
)


@pytest.fixture
def product(redis_url: str, amqp_url: str, redis: Redis, tmp_path: Path) -> Iterator[Stack]:
    """A stack on the shared servers, with an empty Redis."""
    del redis  # emptied
    with stack(redis_url, amqp_url, tmp_path, GATEWAY_CHANNELS=CHAT) as running:
        yield running


@pytest.fixture
async def pair(product: Stack) -> AsyncIterator[Pair]:
    """Two gateways and a worker; `front` is the address clients know, and leads to the first."""
    first, first_url = product.gateway()
    second, second_url = product.gateway()
    product.worker()
    async with Switch(port_of(first_url)) as front:
        yield Pair(first, first_url, second, second_url, front)


@pytest.fixture
async def node() -> AsyncIterator[RunProgram]:
    """Run programs of this folder: `await node("follow", endpoint=…, …)`."""
    async with AsyncExitStack() as running:

        async def begin(name: str, **task: object) -> Program:
            return await running.enter_async_context(program(name, task))

        yield begin
