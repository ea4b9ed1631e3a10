"""Scripts for many callers: each gets its own answer or error, and a busy moment costs few runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.errors import GatewayError, StoreUnavailable
from gateway.settings import Settings
from gateway.store.gather import MOST_BYTES, MOST_CALLS, for_many
from gateway.store.redis import Script, Store
from tests.support.waiting import eventually

BODY = """
if A.fail then error(A.fail) end
if A.wrong then redis.call('INCR', P .. 'text') end
if A.nothing then return false end
redis.call('RPUSH', P .. 'calls', A.n)
return {A.n, #(A.text or '')}
"""
SCRIPT = Script("test", "local P, A = KEYS[1], cmsgpack.unpack(ARGV[1])\n" + for_many(BODY))


class Counted(Store):
    """Counts the runs."""

    runs = 0
    deaf = 0  # so many runs get no answer

    async def _evaluate(self, script: Script, shard_tag: str, packed: bytes) -> Any:
        self.runs += 1
        if self.runs <= self.deaf:
            await asyncio.Event().wait()
        return await super()._evaluate(script, shard_tag, packed)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Counted]:
    async with Counted.open(Settings(redis_url=redis_url)) as opened:
        await opened.client.flushdb()
        await opened.client.set(opened.tag("a") + "text", "not a number")
        await opened.check()
        yield opened


async def call(store: Store, **arguments: object) -> Any:
    return await store.run_gathered(SCRIPT, store.tag("a"), **arguments)


async def test_calls_that_come_together_go_together_in_order(store: Counted) -> None:
    answers = await asyncio.gather(*(call(store, n=n) for n in range(150)))
    assert answers == [[n, 0] for n in range(150)]
    assert store.runs <= 2 + 150 // MOST_CALLS + 1
    done = [int(n) for n in await store.client.lrange(store.tag("a") + "calls", 0, -1)]
    assert done == list(range(150))


async def test_each_call_has_its_own_answer_or_error(store: Counted) -> None:
    calls: list[dict[str, object]] = [{"n": 1}, {"fail": "oh"}, {"wrong": True}, {"nothing": True}, {"n": 2}]
    answers = await asyncio.gather(*(call(store, **each) for each in calls), return_exceptions=True)
    assert [type(answer) for answer in answers] == [list, GatewayError, GatewayError, type(None), list]
    assert (answers[0], answers[4]) == ([1, 0], [2, 0])


async def test_a_server_that_cannot_write_is_away_for_every_call(store: Counted) -> None:
    await call(store, n=0)
    await store.client.config_set("maxmemory", "1")
    try:
        answers = await asyncio.gather(*(call(store, n=n) for n in range(5)), return_exceptions=True)
    finally:
        await store.client.config_set("maxmemory", "0")
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 5


async def test_large_calls_do_not_go_together(store: Counted) -> None:
    text = "x" * (MOST_BYTES // 2)
    answers = await asyncio.gather(*(call(store, n=n, text=text) for n in range(5)))
    assert answers == [[n, len(text)] for n in range(5)]
    assert store.runs == 5
    assert await call(store, n=9, text=text * 4) == [9, 4 * len(text)]


async def test_a_caller_that_leaves_takes_nobody_along(store: Counted) -> None:
    tasks = [asyncio.create_task(call(store, n=n)) for n in range(10)]
    await eventually(lambda: store.runs > 0)
    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks[1::2])
    assert answers == [[n, 0] for n in range(1, 10, 2)]


async def test_nobody_waits_long_for_a_run_without_an_answer(store: Counted) -> None:
    store.deaf = 2
    stuck = [asyncio.create_task(call(store, n=0))]
    await eventually(lambda: store.runs == 1)
    stuck.append(asyncio.create_task(call(store, n=1)))
    await eventually(lambda: store.runs == 2)
    answers = await asyncio.gather(*(call(store, n=n) for n in range(2, 5)))
    assert answers == [[n, 0] for n in range(2, 5)]
    assert store.runs == 3
    assert await call(store, n=5) == [5, 0]
    assert not any(task.done() for task in stuck)
    for task in [*stuck, *store.client._running]:
        task.cancel()
