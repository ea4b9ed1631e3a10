"""The due set on a real Redis: delays, retries, lost leases, expiry, what was lost elsewhere."""

from __future__ import annotations

import asyncio
import functools
import time

import pytest
from redis.asyncio import Redis

from gateway.errors import StaleFence
from gateway.jobs.document import static_json
from gateway.jobs.model import CRASH_LIMIT
from gateway.jobs.records import Claim
from tests.jobs.bench import TENANT, TRACE, Bench, dump


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def test_a_retry_comes_back_as_the_next_attempt(bench: Bench) -> None:
    job_id, old, claim = await bench.running()
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="retrying", error='{"type":"X"}', delay_ms=0)
    due = await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True)
    (message,) = due.messages
    assert (message.attempt, message.run) == (2, 1)
    assert bytes(message.input) == b'{"value":[]}'
    assert await bench.claim(old, token="late") == "another attempt"
    await bench.jobs.queued(message)
    assert isinstance(await bench.claim(message, token="t2"), Claim)
    assert (await bench.job(job_id))["attempt"] == 2
    with pytest.raises(StaleFence):
        await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=2, to="succeeded", result="1")


async def test_a_lost_lease_becomes_another_attempt_and_three_are_poison(bench: Bench) -> None:
    job_id, message, _ = await bench.submit(max_attempts=10)
    assert message is not None
    for crash in range(1, CRASH_LIMIT + 1):
        assert isinstance(await bench.claim(message, token=f"t{crash}", lease=0), Claim)
        due = await bench.jobs.due(bench.tag, limit=10, lease=0, publish=True)
        assert due.lost == 1
        if crash < CRASH_LIMIT:
            assert (await bench.job(job_id))["status"] == "retrying"
            await bench.store.client.zadd(bench.tag + "due", {f"{TENANT} {job_id}": 0})
            (message,) = (await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True)).messages
    job = await bench.job(job_id)
    assert job["status"] == "failed"
    assert job["error"]["type"] == "WorkerLost"
    assert len(job["attempts"]) == CRASH_LIMIT


async def test_a_released_job_keeps_its_attempt(bench: Bench) -> None:
    job_id, _, claim = await bench.running()
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="released")
    (message,) = (await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True)).messages
    assert message.attempt == 1
    assert isinstance(await bench.claim(message, token="t2"), Claim)


async def test_a_due_entry_is_handed_out_once(bench: Bench) -> None:
    for _ in range(20):
        await bench.submit(lease_ms=0)
    found = await asyncio.gather(*(bench.jobs.due(bench.tag, limit=5, lease=60, publish=True) for _ in range(8)))
    ids = [message.id for due in found for message in due.messages]
    assert len(ids) == len(set(ids)) == 20


async def test_a_job_that_cannot_be_dealt_with_does_not_hold_up_the_others(bench: Bench, redis: Redis) -> None:
    bad, _, _ = await bench.submit(lease_ms=0)
    good, _, _ = await bench.submit(lease_ms=0)
    await redis.hset(f"{bench.tag}job:{TENANT}:{bad}", "d", "nonsense")
    due = await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True)
    assert [message.id for message in due.messages] == [good]
    assert len(due.failed) == 1
    assert bad in due.failed[0]
    assert due.next_ms > 1000


async def test_a_full_queue_holds_up_nothing_else(bench: Bench) -> None:
    await bench.submit(lease_ms=0)
    other, _, _ = await bench.submit(lease_ms=0, priority="bulk")
    due = await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True, blocked=["default.default"])
    assert [message.id for message in due.messages] == [other]


async def test_a_queued_job_whose_message_is_lost_is_handed_out_again(bench: Bench, redis: Redis) -> None:
    message = await bench.queued()
    job_id = message.id
    entry = f"{TENANT} {job_id}"
    assert await redis.zscore(bench.tag + "due", entry) is not None
    await redis.zadd(bench.tag + "due", {entry: 0})
    (again,) = (await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True)).messages
    assert again == message
    await bench.jobs.queued(again)
    assert await bench.events(f"job:{job_id}") == ["job.queued"]
    assert isinstance(await bench.claim(again), Claim)


async def test_after_a_restart_queued_jobs_are_looked_at_soon_and_once(bench: Bench, redis: Redis) -> None:
    """The server may have forgotten that their messages were taken and their jobs run."""
    await bench.jobs.recheck(bench.tag, delay=0)
    ids = [(await bench.queued()).id for _ in range(25)]
    await bench.running()
    assert not await bench.jobs.recheck(bench.tag, delay=0)
    assert not (await bench.jobs.due(bench.tag, limit=100, lease=5, publish=True)).messages
    await redis.hset(bench.tag + "gen", "run", "another")  # as a new process finds it
    calls = 1
    while await bench.jobs.recheck(bench.tag, delay=0, limit=10):
        calls += 1
    assert calls >= 3
    found = await bench.jobs.due(bench.tag, limit=100, lease=5, publish=True)
    assert sorted(message.id for message in found.messages) == sorted(ids)
    assert not found.lost
    for message in found.messages:
        await bench.jobs.queued(message)
    assert not await bench.jobs.recheck(bench.tag, delay=0)
    assert not (await bench.jobs.due(bench.tag, limit=100, lease=5, publish=True)).messages


async def test_many_jobs_queued_in_one_millisecond_do_not_stop_the_recheck(bench: Bench, redis: Redis) -> None:
    await redis.zadd(f"{bench.tag}queued:default", {f"{TENANT} job_{number}": 5 for number in range(30)})
    for _ in range(10):
        if not await bench.jobs.recheck(bench.tag, delay=0, limit=10):
            break
    else:
        raise AssertionError("it goes round in circles")
    assert not await redis.zcard(bench.tag + "due"), "what is not due is not made so"


async def overdue(bench: Bench) -> tuple[str, Claim]:
    """A job whose lease has ended."""
    job_id, message, _ = await bench.submit()
    assert message is not None
    claim = await bench.claim(message, lease=0)
    assert isinstance(claim, Claim)
    return job_id, claim


async def test_after_a_silence_of_all_reapers_workers_get_a_lease_to_be_heard(bench: Bench, redis: Redis) -> None:
    """Redis was away: the leases ended because nobody could extend them."""
    job_id, claim = await overdue(bench)
    due = functools.partial(bench.jobs.due, bench.tag, limit=10, lease=5, publish=True, grace=60)
    await redis.hset(bench.tag + "gen", "asked", now_ms() - 30_000)
    found = await due()
    assert (found.lost, found.messages) == (0, [])
    assert 50_000 < found.next_ms <= 60_000
    assert not await bench.jobs.heartbeat(TENANT, job_id, claim.fence, 60)
    await redis.hset(bench.tag + "gen", mapping={"asked": now_ms() - 30_000, "grace": now_ms() - 1000})
    await redis.zadd(bench.tag + "due", {f"{TENANT} {job_id}": 0})
    assert (await due()).lost == 1, "the grace that has just ended is not given again"


async def test_a_lease_that_ends_while_reapers_look_is_lost(bench: Bench) -> None:
    await overdue(bench)
    assert (await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True, grace=60)).lost == 1


async def test_ttl_ends_with_the_start(bench: Bench) -> None:
    job_id, message, _ = await bench.submit(ttl_ms=1500)
    assert message is not None
    claim = await bench.claim(message)
    assert isinstance(claim, Claim)
    await asyncio.sleep(1.51)
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="released")
    (again,) = (await bench.jobs.due(bench.tag, limit=10, lease=60, publish=True)).messages
    assert isinstance(await bench.claim(again, token="t2"), Claim)


async def test_without_a_broker_nothing_is_handed_out_and_nothing_lost(bench: Bench) -> None:
    await bench.submit(lease_ms=0)
    due = await bench.jobs.due(bench.tag, limit=5, lease=60, publish=False)
    assert due.messages == []
    assert 0 < due.next_ms <= 1000


async def test_ttl_expires_what_has_not_started(bench: Bench) -> None:
    job_id, message, _ = await bench.submit(ttl_ms=1)
    assert message is not None
    await asyncio.sleep(0.005)
    assert await bench.claim(message) == "expired"
    assert (await bench.job(job_id))["status"] == "expired"
    other = (await bench.queued(ttl_ms=1)).id
    await asyncio.sleep(0.005)
    await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True)
    assert (await bench.job(other))["status"] == "expired"


async def test_a_delayed_job_is_scheduled_until_it_is_due(bench: Bench) -> None:
    job_id, _, _ = await bench.submit(delay_ms=60_000)
    assert await bench.events(f"job:{job_id}") == ["job.scheduled"]
    assert (await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True)).messages == []
    await bench.store.client.zadd(bench.tag + "due", {f"{TENANT} {job_id}": 0})
    assert len((await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True)).messages) == 1


async def test_purge_forgets_everything_of_an_ended_job(bench: Bench, redis: Redis) -> None:
    job_id, _, claim = await bench.running(targets=[])
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="succeeded", result="1")
    assert await bench.jobs.outdated(bench.tag, retention=60, limit=10) == []
    await bench.jobs.purge(bench.tag, [(TENANT, job_id)], retention=60)
    assert (await bench.job(job_id))["status"] == "succeeded"  # it was not so after all
    await asyncio.sleep(0.005)
    assert await bench.jobs.outdated(bench.tag, retention=0, limit=10) == [(TENANT, job_id)]
    await bench.jobs.purge(bench.tag, [(TENANT, job_id)], retention=0)
    names = [key.decode() for key in await dump(redis)]
    left = {name.removeprefix(bench.tag) for name in names if name.startswith(bench.tag)}
    assert left == {"types", "types:seen", "open", f"seq:{TENANT}"}


async def test_a_queue_that_forgot_gets_its_jobs_again(bench: Bench) -> None:
    job_id = (await bench.queued()).id
    assert await bench.jobs.requeue(bench.tag, "default") == 1
    (again,) = (await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True)).messages
    assert again.id == job_id
    assert isinstance(await bench.claim(again), Claim)


async def test_a_job_redis_lost_is_rebuilt_from_its_message(bench: Bench, redis: Redis) -> None:
    job_id, message, _ = await bench.submit()
    assert message is not None
    await redis.flushall()
    assert await bench.claim(message) == "missing"
    static = static_json(TENANT, job_id, "echo", "ann", [], "default", TRACE)
    await bench.jobs.rebuild(message, static, [bench.channels.target("jobs")])
    assert isinstance(await bench.claim(message), Claim)
    assert (await bench.job(job_id))["status"] == "running"
