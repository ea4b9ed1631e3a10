"""The connection: restarts are noticed before a command meets them, cancelled callers leave no damage."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from gateway.errors import GatewayError, StoreUnavailable
from gateway.events import draft
from gateway.settings import load
from gateway.store.channels import ChannelStore
from gateway.store.redis import Script, Store
from tests.support.servers import RedisServer
from tests.support.waiting import eventually


async def test_after_a_restart_no_command_fails() -> None:
    with RedisServer() as server:
        settings = load({"GATEWAY_REDIS_URL": server.url})
        async with Store.open(settings) as store:
            channels = ChannelStore(store, settings)
            await asyncio.gather(*(channels.head("default") for _ in range(20)))
            await asyncio.to_thread(server.stop)
            with pytest.raises(StoreUnavailable):
                await channels.head("default")
            await asyncio.to_thread(server.start)
            await asyncio.gather(*(channels.head("default") for _ in range(20)))


async def test_a_server_that_cannot_write_is_away() -> None:
    with RedisServer() as server:
        settings = load({"GATEWAY_REDIS_URL": server.url})
        async with Store.open(settings) as store:
            channels = ChannelStore(store, settings)
            await channels.publish("default", ["a"], draft("a.b", b"1", id_="1", source="/s"))
            for setting, broken, whole in [("min-replicas-to-write", 1, 0), ("maxmemory", 1, 0)]:
                await store.client.config_set(setting, broken)
                with pytest.raises(StoreUnavailable):
                    await channels.publish("default", ["a"], draft("a.b", b"1", id_="2", source="/s"))
                await store.client.config_set(setting, whole)
            await channels.publish("default", ["a"], draft("a.b", b"1", id_="3", source="/s"))


async def test_cancelled_callers_disturb_nobody(redis_url: str) -> None:
    random = Random(7)
    settings = load({"GATEWAY_REDIS_URL": redis_url})
    async with Store.open(settings) as store:
        channels = ChannelStore(store, settings)

        async def read_for_ever() -> None:
            while True:
                await channels.head("default")

        for _ in range(300):
            task = asyncio.create_task(read_for_ever())
            await asyncio.sleep(random.uniform(0, 0.002))
            task.cancel()
            await eventually(task.done)
            assert task.cancelled()


async def test_a_failing_script_is_an_internal_error_and_a_lost_one_is_loaded_again(redis_url: str) -> None:
    settings = load({"GATEWAY_REDIS_URL": redis_url})
    async with Store.open(settings) as store:
        with pytest.raises(GatewayError) as caught:
            await store.run(Script("broken", "return redis.call('NOSUCHCOMMAND')"), "{s00}:")
        assert not isinstance(caught.value, StoreUnavailable)
        channels = ChannelStore(store, settings)
        await channels.head("default")
        await store.client.script_flush()
        await channels.head("default")
