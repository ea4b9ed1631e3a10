"""The number of shards: agreed on once, never changed under data."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from gateway.errors import ConfigurationError, StoreUnavailable
from gateway.settings import Settings, load
from gateway.store.channels import ChannelStore
from gateway.store.redis import Store
from tests.support.servers import RedisServer


def settings(url: str, shards: int) -> Settings:
    return load({"GATEWAY_REDIS_URL": url, "GATEWAY_SHARDS": str(shards)})


async def test_another_number_is_refused_once_there_is_data(redis_url: str, redis: Redis) -> None:
    four, five = settings(redis_url, 4), settings(redis_url, 5)
    async with Store.open(four) as store, Store.open(five) as other:
        await store.check()
        await store.check()
        await ChannelStore(store, four).head("acme")
        with pytest.raises(ConfigurationError, match=r"GATEWAY_SHARDS is 5.* data of 4"):
            await other.check()
        with pytest.raises(StoreUnavailable):
            await ChannelStore(other, five).head("acme")
        with pytest.raises(StoreUnavailable):
            await other.ping()
    assert await redis.get("{keys}:shards") == b"4"


async def test_without_data_the_newest_number_holds(redis_url: str, redis: Redis) -> None:
    async with Store.open(settings(redis_url, 4)) as store, Store.open(settings(redis_url, 5)) as other:
        await store.check()
        await other.check()
    assert await redis.get("{keys}:shards") == b"5"


async def test_a_redis_that_was_away_at_the_start_is_asked_by_the_first_script() -> None:
    with RedisServer() as server:
        async with Store.open(settings(server.url, 2)) as store:
            await ChannelStore(store, settings(server.url, 2)).head("acme")
        server.stop()
        late = settings(server.url, 3)
        async with Store.open(late) as store:
            with pytest.raises(StoreUnavailable):
                await store.check()
            server.start()
            with pytest.raises(StoreUnavailable):
                await ChannelStore(store, late).head("acme")
