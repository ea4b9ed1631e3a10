"""Leased locks: one holder, a fence that only grows, and leases that end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from gateway.settings import Settings
from gateway.store.locks import Locks
from gateway.store.redis import Store
from tests.support.waiting import eventually


@pytest.fixture
async def locks(redis_url: str, redis: Redis) -> AsyncIterator[Locks]:
    del redis  # emptied
    async with Store.open(Settings(redis_url=redis_url)) as store:
        yield Locks(store)


async def test_of_many_one_holds_it(locks: Locks) -> None:
    grips = await asyncio.gather(*(locks.take("default", "l", f"o{number}", 60) for number in range(20)))
    assert sum(grip.fence > 0 for grip in grips) == 1
    assert all(0 < grip.left <= 60 for grip in grips)
    assert (await locks.take("acme", "l", "other tenant", 60)).fence
    assert (await locks.take("default", "m", "other lock", 60)).fence


async def test_asking_again_is_the_same_grip(locks: Locks) -> None:
    first = await locks.take("default", "l", "a", 60)
    assert (await locks.take("default", "l", "a", 60)).fence == first.fence


async def test_the_fence_grows_with_every_holder(locks: Locks, redis: Redis) -> None:
    fences = []
    for number in range(5):
        fences.append((await locks.take("default", "l", str(number), 60)).fence)
        await locks.free("default", "l", str(number))
    await redis.flushall()  # forgotten
    fences.append((await locks.take("default", "l", "after", 60)).fence)
    assert fences == sorted(set(fences))


async def test_only_the_holder_keeps_and_frees(locks: Locks) -> None:
    await locks.take("default", "l", "a", 60)
    assert not await locks.keep("default", "l", "b", 60)
    await locks.free("default", "l", "b")
    assert await locks.keep("default", "l", "a", 60)
    assert not (await locks.take("default", "l", "b", 60)).fence
    await locks.free("default", "l", "a")
    assert not await locks.keep("default", "l", "a", 60)


async def test_a_lease_that_ends_lets_the_next_one_in(locks: Locks) -> None:
    first = await locks.take("default", "l", "a", 0.05)

    async def taken() -> int:
        return (await locks.take("default", "l", "b", 60)).fence

    assert await eventually(taken) > first.fence
    assert not await locks.keep("default", "l", "a", 60)
