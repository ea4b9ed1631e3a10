"""Unique keys: one open job of a type per key, from submission to whatever end."""

from __future__ import annotations

import asyncio
import json

import pytest
from redis.asyncio import Redis

from gateway.errors import Conflict
from gateway.jobs.queue import decode, encode
from gateway.jobs.rebuild import Rebuilder
from gateway.settings import Settings
from tests.jobs.bench import TENANT, Bench, dump


async def open_jobs(bench: Bench) -> int:
    return len((await bench.jobs.find(TENANT, limit=100))[0])


async def test_of_many_at_once_one_is_made(bench: Bench) -> None:
    submitted = await asyncio.gather(*(bench.submit(unique="k") for _ in range(20)))
    assert sorted(kind for _, _, kind in submitted) == ["accepted"] + ["held"] * 19
    assert await open_jobs(bench) == 1


async def test_the_second_gets_the_first_and_nothing_is_written(bench: Bench, redis: Redis) -> None:
    first, _, _ = await bench.submit(unique="k")
    before = await dump(redis)
    outcome = await bench.jobs.submit(
        TENANT, id="job_x", type="echo", unique="k", max_open=1, lease_ms=1, input="{}", traceparent="", targets=[]
    )
    assert outcome.kind == "held"
    assert json.loads(outcome.job)["id"] == first
    assert await dump(redis) == before


async def test_a_key_belongs_to_tenant_and_type(bench: Bench) -> None:
    await bench.jobs.register({"other": ("default", 3, 60.0)})
    for changes in ({"unique": "k"}, {"unique": "l"}, {"unique": "k", "type": "other"}, {"unique": None}, {}):
        assert (await bench.submit(**changes))[2] == "accepted"


@pytest.mark.parametrize("to", ["succeeded", "failed", "cancelled"])
async def test_it_is_free_when_the_job_has_ended_not_before(bench: Bench, to: str) -> None:
    job_id, _, claim = await bench.running(unique="k")
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="retrying", error="{}", delay_ms=0)
    assert (await bench.submit(unique="k"))[2] == "held"
    (message,) = (await bench.jobs.due(bench.tag, limit=10, lease=60, publish=True)).messages
    again = await bench.claim(message, token="second")
    assert not isinstance(again, str)
    await bench.jobs.advance(TENANT, job_id, fence=again.fence, op=1, to=to)
    assert (await bench.submit(unique="k"))[2] == "accepted"
    assert (await bench.submit(unique="k"))[2] == "held"


async def test_expiring_and_withdrawing_free_it(bench: Bench) -> None:
    job_id, _, _ = await bench.submit(unique="k")
    await bench.jobs.withdraw(TENANT, job_id, None)
    second, _, kind = await bench.submit(unique="k", ttl_ms=1)
    assert kind == "accepted"
    await asyncio.sleep(0.005)  # it may wait for a millisecond of Redis' clock
    await bench.store.client.zadd(bench.tag + "due", {f"{TENANT} {second}": 0}, xx=True)
    await bench.jobs.due(bench.tag, limit=10, lease=60, publish=True)
    assert (await bench.job(second))["status"] == "expired"
    assert (await bench.submit(unique="k"))[2] == "accepted"


async def test_a_new_run_takes_it_again_or_is_refused(bench: Bench, redis: Redis) -> None:
    job_id, _, _ = await bench.submit(unique="k")
    await bench.jobs.cancel(TENANT, job_id)
    other, _, _ = await bench.submit(unique="k")
    before = await dump(redis)
    with pytest.raises(Conflict, match=other):
        await bench.jobs.rerun(TENANT, job_id, lease=5, max_open=10)
    assert await dump(redis) == before
    await bench.jobs.cancel(TENANT, other)
    assert await bench.jobs.rerun(TENANT, job_id, lease=5, max_open=10)
    assert (await bench.submit(unique="k"))[2] == "held"


async def test_a_rebuilt_job_has_it_again(bench: Bench, redis: Redis) -> None:
    job_id, message, _ = await bench.submit(unique="k")
    assert message is not None
    message = decode(encode(message))  # as it went through the broker
    assert message.unique == "k"
    await redis.flushall()
    await bench.jobs.register({"echo": ("default", 3, 60.0)})
    rebuilder = Rebuilder(bench.jobs, bench.channels, Settings())
    assert await rebuilder.rebuild(message)
    assert (await bench.submit(unique="k"))[2] == "held"
    await bench.jobs.cancel(TENANT, job_id)
    assert (await bench.submit(unique="k"))[2] == "accepted"


async def test_a_rebuilt_job_is_kept_even_if_another_has_its_key_by_then(bench: Bench, redis: Redis) -> None:
    job_id, message, _ = await bench.submit(unique="k")
    assert message is not None
    await redis.flushall()
    await bench.jobs.register({"echo": ("default", 3, 60.0)})
    other, _, _ = await bench.submit(unique="k")
    assert await Rebuilder(bench.jobs, bench.channels, Settings()).rebuild(message)
    assert await open_jobs(bench) == 2
    await bench.jobs.cancel(TENANT, job_id)
    assert (await bench.submit(unique="k"))[2] == "held", "it is still the other's"
    await bench.jobs.cancel(TENANT, other)
    assert (await bench.submit(unique="k"))[2] == "accepted"


async def test_an_idempotency_key_remembers_whose_job_it_got(bench: Bench) -> None:
    first, _, _ = await bench.submit(unique="k")
    _, _, kind = await bench.submit(unique="k", key="i", fingerprint="f")
    assert kind == "held"
    await bench.jobs.settle(TENANT, "i", b'{"id":"x"}')
    await bench.jobs.cancel(TENANT, first)
    outcome = await bench.jobs.submit(TENANT, id="job_y", key="i", fingerprint="f")
    assert (outcome.kind, outcome.answer) == ("replay", b'{"id":"x"}')
