"""The fan-out on real Redis, served by the real server on a free port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from gateway.settings import Settings
from gateway.store.channels import ChannelStore
from gateway.store.redis import Store
from tests.fanout.support import Node, node, settings_for

StartNode = Callable[..., Awaitable[Node]]


@pytest.fixture
def settings(redis_url: str, redis: Redis) -> Settings:
    del redis  # emptied
    return settings_for(redis_url)


@pytest.fixture
async def channels(settings: Settings) -> AsyncIterator[ChannelStore]:
    async with Store.open(settings) as store:
        yield ChannelStore(store, settings)


@pytest.fixture
async def start(settings: Settings) -> AsyncIterator[StartNode]:
    """Start gateway nodes: `await start(options=…, settings=…, server=…)`."""
    async with AsyncExitStack() as stack:

        async def begin(**changes: object) -> Node:
            return await stack.enter_async_context(node(**{"settings": settings, **changes}))  # type: ignore[arg-type] # keyword pass-through

        yield begin
