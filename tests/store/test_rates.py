from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from unittest.mock import AsyncMock

import pytest
from redis.asyncio import Redis

from gateway.errors import RateLimited, StoreUnavailable
from gateway.settings import Settings
from gateway.store import rates as module
from gateway.store.rates import Rates
from gateway.store.redis import Store


@pytest.fixture
async def store(redis_url: str, redis: Redis) -> AsyncIterator[Store]:
    del redis  # emptied
    async with Store.open(Settings(redis_url=redis_url)) as opened:
        yield opened


async def passed(rates: Rates, tenant: str, tries: int) -> int:
    done = 0
    for _ in range(tries):
        try:
            await rates.spend(tenant)
        except RateLimited as error:
            if not error.retry_after or error.retry_after < 0:
                raise
        else:
            done += 1
    return done


async def test_a_burst_passes_and_no_more_over_all_processes(store: Store) -> None:
    several = [Rates(store, 0.001, 40) for _ in range(3)]
    counts = await asyncio.gather(*(passed(rates, "acme", 60) for rates in several))
    assert sum(counts) == 40
    assert await passed(several[0], "other", 60) == 40


async def test_what_was_used_comes_back_by_the_servers_clock(store: Store) -> None:
    rates = Rates(store, 100, 100)  # a second without a turn loses nothing
    began = time.monotonic()
    assert await passed(rates, "acme", 100) == 100
    done = 100
    while time.monotonic() < began + 0.5:
        done += await passed(rates, "acme", 1)
        await asyncio.sleep(0.002)
    took = time.monotonic() - began
    assert done <= 100 + 100 * took + 1
    assert done >= 100 + 100 * took / 2


async def test_most_requests_ask_redis_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = AsyncMock(wraps=store.run)
    monkeypatch.setattr(store, "run", run)
    rates = Rates(store, 0.001, 1600)
    assert await passed(rates, "acme", 1600) == 1600
    assert run.await_count == 16
    assert await passed(rates, "acme", 1000) == 0
    assert run.await_count == 17  # and a flood that is refused asks nothing either


async def test_many_at_once_take_one_lot_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = AsyncMock(wraps=store.run)
    monkeypatch.setattr(store, "run", run)
    rates = Rates(store, 1, 1600)
    await asyncio.gather(*(rates.spend("acme") for _ in range(250)))
    assert run.await_count == 3


async def test_nobody_is_held_up_when_redis_is_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = AsyncMock(side_effect=StoreUnavailable)
    monkeypatch.setattr(store, "run", run)
    now = [1000.0]
    rates = Rates(store, 1, 16, clock=lambda: now[0])
    assert await passed(rates, "acme", 50) == 50
    assert run.await_count == 1
    now[0] += module.UNPAID
    assert await passed(rates, "acme", 50) == 50
    assert run.await_count == 2


async def test_nobody_is_held_up_long_when_redis_stalls(store: Store, redis: Redis) -> None:
    rates = Rates(store, 1, 16)
    await rates.spend("another")
    await redis.client_pause(20_000, all=False)
    try:
        began = time.monotonic()
        assert sum(await asyncio.gather(*(passed(rates, "acme", 1) for _ in range(50)))) == 50
        assert time.monotonic() - began < 10
    finally:
        await redis.client_unpause()


async def test_tenants_are_remembered_up_to_a_bound(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TENANTS", 3)
    rates = Rates(store, 1, 16)
    for number in range(10):
        await rates.spend(f"t{number}")
    assert list(rates._purses) == ["t7", "t8", "t9"]


async def test_no_limit_is_no_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "run", AsyncMock(side_effect=AssertionError))
    assert await passed(Rates(store, 0, 1), "acme", 100) == 100
