"""The client that follows the master: a real Sentinel that names another server, and one that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from redis import Redis

from gateway.store import places
from gateway.store.address import RedisAddress
from gateway.store.client import Client
from gateway.store.sentinel import sentinel_client
from tests.support.clusters import MASTER, Sentinel
from tests.support.servers import RedisServer


@pytest.fixture
def servers() -> Iterator[tuple[RedisServer, RedisServer]]:
    """Two masters that do not know each other, and that know their names."""
    with RedisServer() as first, RedisServer() as second:
        for server, name in ((first, "first"), (second, "second")):
            with Redis(port=server.port) as client:
                client.set("name", name)
        yield first, second


@pytest.fixture
def sentinel(servers: tuple[RedisServer, RedisServer]) -> Iterator[Sentinel]:
    with Sentinel(servers[0].port) as running:
        yield running


@pytest.fixture
async def client(sentinel: Sentinel, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    monkeypatch.setattr(places, "FRESH", 0)
    opened = sentinel_client(RedisAddress.parse(f"redis+sentinel://127.0.0.1:{sentinel.port}/0?master={MASTER}"))
    yield opened
    await opened.settle()


async def names(client: Client, count: int) -> list[bytes | str | None]:
    """Ask over so many connections at once."""
    return list(await asyncio.gather(*(client.get("name") for _ in range(count))))


async def test_idle_connections_to_a_former_master_are_not_used_again(
    client: Client, sentinel: Sentinel, servers: tuple[RedisServer, RedisServer]
) -> None:
    """It lives, calls itself a master, and has not closed them: only the Sentinels know."""
    assert await names(client, 2) == [b"first"] * 2
    with Redis(port=sentinel.port) as told:
        told.execute_command("SENTINEL", "REMOVE", MASTER)
        told.execute_command("SENTINEL", "MONITOR", MASTER, "127.0.0.1", servers[1].port, 1)
    assert b"second" in await names(client, 3), "the third needed a new connection"
    assert await names(client, 3) == [b"second"] * 3


async def test_without_sentinels_the_last_known_master_is_connected_to(client: Client, sentinel: Sentinel) -> None:
    assert await names(client, 1) == [b"first"]
    sentinel.close()
    assert await names(client, 5) == [b"first"] * 5
    assert await names(client, 10) == [b"first"] * 10
