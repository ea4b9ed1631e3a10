"""Every subscriber ends with exactly what was published, or with a word that says so: counted, not sampled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from tests.faults.readers import Socket, Stream
from tests.faults.scene import RULES, Scene, scene
from tests.support.proxy import TcpProxy
from tests.support.servers import RedisServer

SHORT, LONG = pytest.mark.faults, pytest.mark.faults_long
PAUSE = 0.005  # between two publications


async def with_all(server: RedisServer) -> None:
    await asyncio.to_thread(server.restart)


async def with_less(server: RedisServer) -> None:
    server.keep()
    await asyncio.sleep(1)  # what is published meanwhile is lost
    await asyncio.to_thread(server.kill)
    server.rewind()
    await asyncio.to_thread(server.start)


async def with_nothing(server: RedisServer) -> None:
    await asyncio.to_thread(server.kill)
    server.wipe()
    await asyncio.to_thread(server.start)


COMEBACKS: dict[str, Callable[[RedisServer], Awaitable[None]]] = {
    "all": with_all,
    "a lost tail": with_less,
    "nothing": with_nothing,
}


@pytest.mark.parametrize(
    ("comeback", "size", "times"),
    [pytest.param(name, 80, 1, marks=SHORT) for name in COMEBACKS]
    + [pytest.param(name, 1000, 5, marks=LONG) for name in COMEBACKS],
)
async def test_everyone_is_told_when_redis_comes_back(
    own_redis: RedisServer, tmp_path: Path, comeback: str, size: int, times: int
) -> None:
    async with scene(own_redis.url, tmp_path) as here:
        await here.gateway()
        await here.audience(size)
        for _ in range(times):
            async with here.publisher.publishing(PAUSE):
                await asyncio.sleep(0.5)
                await COMEBACKS[comeback](own_redis)
                await asyncio.sleep(0.5)
            last = await here.finish()
        here.crowd.everybody_knows(0, last)
        assert all(len(member.told) >= times for member in here.crowd.members)


@pytest.mark.parametrize(
    ("size", "drops"),
    [pytest.param(100, 6, marks=SHORT), pytest.param(1000, 100, marks=[LONG, pytest.mark.timeout(300)])],
)
async def test_dropped_feeds_and_repeated_events_cost_nobody_anything(
    redis_url: str, redis: Redis, tmp_path: Path, size: int, drops: int
) -> None:
    del redis
    async with (
        TcpProxy(port(redis_url)) as proxy,
        scene(redis_url, tmp_path, through=proxy.url(redis_url), copies=2) as here,
    ):
        await here.gateway()
        await here.audience(size)
        dropped = 0
        async with here.publisher.publishing(PAUSE):
            for _ in range(drops):
                await asyncio.sleep(0.3)
                dropped += proxy.drop_feeds()
        here.crowd.nobody_missed_anything(0, await here.finish())
        assert dropped > drops / 2


@pytest.mark.parametrize(
    ("size", "stalls"),
    [pytest.param(100, 1, marks=SHORT), pytest.param(1000, 5, marks=[LONG, pytest.mark.timeout(300)])],
)
async def test_a_feed_that_only_looks_alive_costs_nobody_anything(
    redis_url: str, redis: Redis, tmp_path: Path, size: int, stalls: int
) -> None:
    del redis
    async with TcpProxy(port(redis_url)) as proxy, scene(redis_url, tmp_path, through=proxy.url(redis_url)) as here:
        await here.gateway()
        await here.audience(size)
        for _ in range(stalls):
            assert proxy.stall_feeds()
            async with here.publisher.publishing(0.05):
                await here.crowd.reach(here.publisher.next + 20, 40)  # on a new connection, or by looking
        here.crowd.nobody_missed_anything(0, await here.finish())


@pytest.mark.parametrize("size", [pytest.param(1000, marks=SHORT)])
async def test_a_killed_gateway_costs_its_subscribers_nothing(
    redis_url: str, redis: Redis, tmp_path: Path, size: int
) -> None:
    del redis
    async with scene(redis_url, tmp_path) as here:
        dying = await here.gateway()
        await here.audience(size)
        await here.gateway()
        async with here.publisher.publishing(0.02):
            await asyncio.sleep(0.5)
            del here.crowd.ports[0]
            dying.kill()
            await asyncio.sleep(0.5)
        here.crowd.nobody_missed_anything(0, await here.finish())
        assert all(member.losses for member in here.crowd.members)


@pytest.mark.parametrize(
    ("size", "blips", "length"),
    [
        pytest.param(100, 5, 0.3, marks=SHORT),
        pytest.param(400, 50, 2.0, marks=[LONG, pytest.mark.timeout(600)]),
    ],
)
async def test_blips_cost_nobody_anything(
    redis_url: str, redis: Redis, tmp_path: Path, size: int, blips: int, length: float
) -> None:
    """Redis cannot be reached for a while, again and again; publishers elsewhere go on."""
    del redis
    async with TcpProxy(port(redis_url)) as proxy, scene(redis_url, tmp_path, through=proxy.url(redis_url)) as here:
        await here.gateway()
        await here.audience(size)
        async with here.publisher.publishing(0.02):
            for _ in range(blips):
                proxy.cut()
                await asyncio.sleep(length)
                proxy.resume()
                await asyncio.sleep(0.5)
        here.crowd.nobody_missed_anything(0, await here.finish())


@pytest.mark.parametrize("size", [pytest.param(100, marks=SHORT), pytest.param(1000, marks=LONG)])
async def test_who_was_away_for_too_long_is_told(redis_url: str, redis: Redis, tmp_path: Path, size: int) -> None:
    del redis
    async with scene(redis_url, tmp_path, namespace="short") as here:
        await here.gateway()
        await here.audience(size)
        await here.publisher.publish(30)
        await here.crowd.reach(29)
        here.crowd.send_away()
        await here.publisher.publish(3 * RULES["short"])
        # Back to a gateway that remembers nothing: the rings of the first one still reach back.
        here.crowd.ports.clear()
        await here.gateway()
        here.crowd.gate.set()
        await told(here)
        last = await here.finish()
        assert here.crowd.everybody_knows(0, last) == size * 3 * RULES["short"]


async def told(here: Scene) -> None:
    async with asyncio.timeout(20):
        while not all(member.told for member in here.crowd.members):  # noqa: ASYNC110 - the crowd has no event for it
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("backlog", "readers"),
    [pytest.param(10_000, 6, marks=SHORT), pytest.param(100_000, 20, marks=[LONG, pytest.mark.timeout(300)])],
)
async def test_a_long_backlog_is_read_whole_while_more_is_published(
    redis_url: str, redis: Redis, tmp_path: Path, backlog: int, readers: int
) -> None:
    del redis
    async with scene(redis_url, tmp_path) as here:
        await here.gateway()
        await here.publisher.pile_up(backlog)
        await from_the_beginning(here, readers)
        async with here.publisher.publishing(PAUSE):
            await here.crowd.reach(backlog, 120)
        here.crowd.nobody_missed_anything(0, await here.finish())


@pytest.mark.parametrize(
    ("backlog", "readers"), [pytest.param(3_000, 20, marks=SHORT), pytest.param(100_000, 200, marks=LONG)]
)
async def test_a_backlog_that_was_trimmed_is_told_and_everything_after_it_comes(
    redis_url: str, redis: Redis, tmp_path: Path, backlog: int, readers: int
) -> None:
    del redis
    async with scene(redis_url, tmp_path, namespace="short") as here:
        await here.gateway()
        await here.publisher.pile_up(backlog)
        await from_the_beginning(here, readers)
        async with here.publisher.publishing(PAUSE):
            await told(here)
        last = await here.finish()
        here.crowd.everybody_knows(0, last)
        for member in here.crowd.members:
            assert member.seen[0] >= backlog
            assert member.seen == list(range(member.seen[0], last + 1))


async def from_the_beginning(here: Scene, readers: int) -> None:
    """Resume from before the first event, on every transport."""
    generation, _ = await here.publisher.channels.head("default")
    crowd = here.crowd
    crowd.join(*(Socket(crowd, ("", 0)) for _ in range(readers // 2)))
    crowd.join(*(Stream(crowd, f"{generation}.0", wide=n % 2 == 0) for n in range(readers - readers // 2)))


def port(url: str) -> int:
    found = urlsplit(url).port
    assert found
    return found
