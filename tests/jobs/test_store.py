"""The job scripts on a real Redis: refusals leave nothing written, fences hold, repetitions change nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.errors import Conflict, QuotaExceeded, StaleFence
from gateway.events import Position, new_id
from gateway.jobs.model import MAX_PROGRESS
from gateway.jobs.records import Claim
from tests.jobs.bench import TENANT, TRACE, Bench, dump


async def test_a_job_from_submission_to_its_end(bench: Bench) -> None:
    job_id, _, claim = await bench.running()
    assert claim.max_attempts == 3
    assert claim.timeout == 60
    await bench.jobs.advance(
        TENANT, job_id, fence=claim.fence, op=1, to="progress", progress='{"done":1}', lease_ms=9000
    )
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=2, to="succeeded", result='{"rows":[]}')
    job = await bench.job(job_id)
    assert job["status"] == "succeeded"
    assert job["result"] == {"rows": []}
    assert job["progress"] == {"done": 1}
    assert job["pool"] == "default"
    assert job["max_attempts"] == 3
    assert [attempt["error"] for attempt in job["attempts"]] == [None]
    log = ["job.queued", "job.started", "job.progress", "job.succeeded"]
    for channel in (f"job:{job_id}", "user:ann", "jobs"):
        assert await bench.events(channel) == log
    assert await bench.store.client.zcard(bench.tag + "due") == 0


async def test_an_event_is_the_job_and_its_id_the_version(bench: Bench) -> None:
    job_id, _, _ = await bench.running()
    history = await bench.channels.history(TENANT, f"job:{job_id}", since=Position("", 0), limit=-1)
    event = json.loads(history.publications[-1].event)
    job = await bench.job(job_id)
    attempts = job.pop("attempts")
    assert attempts == []
    assert event["data"] == job
    assert event["id"] == f"{job_id}-{job['version']}"
    assert event["subject"] == job_id
    assert event["traceparent"] == TRACE
    assert [json.loads(item.event)["data"]["version"] for item in history.publications] == [2, 3]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({"type": "nobody"}, "unknown-type"), ({"max_open": 1}, "quota"), ({"key": "k", "fingerprint": "2"}, "mismatch")],
)
async def test_a_refused_submission_leaves_nothing_written(
    bench: Bench, redis: Redis, changes: dict[str, Any], kind: str
) -> None:
    await bench.submit(key="k", fingerprint="1")
    before = await dump(redis)
    _, _, refused = await bench.submit(**changes)
    assert refused == kind
    assert await dump(redis) == before


async def test_a_repeated_submission_is_the_same_job(bench: Bench) -> None:
    job_id, _, _ = await bench.submit()
    _, message, kind = await bench.submit(job_id)
    assert kind == "existing"
    assert message is None
    assert await bench.store.client.zcard(f"{bench.tag}ix:{TENANT}:all") == 1


async def test_an_idempotency_key_in_flight_then_answered(bench: Bench) -> None:
    job_id, _, _ = await bench.submit(key="k", fingerprint="f")
    assert (await bench.submit(key="k", fingerprint="f"))[2] == "in-flight"
    await bench.jobs.settle(TENANT, "k", b'{"id":"x"}')
    outcome = await bench.jobs.submit(TENANT, id=new_id("job_"), key="k", fingerprint="f")
    assert (outcome.kind, outcome.answer) == ("replay", b'{"id":"x"}')
    assert json.loads(outcome.job)["id"] == job_id


async def test_two_processes_claiming_at_once_get_one_winner(bench: Bench) -> None:
    _, message, _ = await bench.submit()
    assert message is not None
    claims = await asyncio.gather(*(bench.claim(message, token=str(n)) for n in range(8)))
    assert sum(isinstance(claim, Claim) for claim in claims) == 1
    assert [claim for claim in claims if not isinstance(claim, Claim)] == ["leased"] * 7


async def test_repeating_a_claim_returns_the_same_claim(bench: Bench) -> None:
    _, message, claim = await bench.running()
    assert await bench.claim(message) == claim


async def test_claiming_an_accepted_job_records_queued_and_started(bench: Bench) -> None:
    job_id, message, _ = await bench.submit()
    assert message is not None
    await bench.claim(message)
    assert await bench.events(f"job:{job_id}") == ["job.queued", "job.started"]
    await bench.jobs.queued(message)  # the confirmation, late
    assert await bench.events(f"job:{job_id}") == ["job.queued", "job.started"]


async def test_a_stale_fence_is_refused_and_leaves_nothing_written(bench: Bench, redis: Redis) -> None:
    job_id, _, claim = await bench.running()
    before = await dump(redis)
    with pytest.raises(StaleFence):
        await bench.jobs.advance(TENANT, job_id, fence=claim.fence - 1, op=1, to="succeeded", result="1")
    with pytest.raises(StaleFence):
        await bench.jobs.heartbeat(TENANT, job_id, claim.fence - 1, 10)
    assert await dump(redis) == before


@pytest.mark.parametrize("to", ["progress", "succeeded", "failed", "retrying"])
async def test_repeating_an_operation_changes_nothing(bench: Bench, redis: Redis, to: str) -> None:
    job_id, _, claim = await bench.running()
    facts = {"error": "{}", "delay_ms": 60_000, "progress": "{}", "lease_ms": 60_000}
    first = await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to=to, **facts)
    before = await dump(redis)
    assert await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to=to, **facts) == first
    assert await dump(redis) == before


async def test_a_channel_looked_at_before_its_job_began_does_not_expire_under_it(bench: Bench, redis: Redis) -> None:
    job_id, message, _ = await bench.submit()
    assert message is not None
    await bench.channels.position(TENANT, f"job:{job_id}")
    meta = f"{bench.tag}meta:{TENANT}:job:{job_id}"
    assert await redis.ttl(meta) > 0
    await bench.claim(message)
    assert await redis.ttl(meta) == -1


async def test_a_log_that_outlived_its_meta_is_continued(bench: Bench, redis: Redis) -> None:
    job_id, _, claim = await bench.running()
    await redis.delete(f"{bench.tag}meta:{TENANT}:job:{job_id}")
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="succeeded", result="1")
    assert await bench.events(f"job:{job_id}") == ["job.queued", "job.started", "job.succeeded"]


async def test_a_cancelled_job_that_fails_is_cancelled(bench: Bench) -> None:
    job_id, _, claim = await bench.running()
    await bench.jobs.cancel(TENANT, job_id)
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="failed", error="{}")
    assert (await bench.job(job_id))["status"] == "cancelled"


async def test_a_withdrawn_job_is_gone_and_cannot_come_back(bench: Bench, redis: Redis) -> None:
    await bench.submit()  # the indexes exist
    before = set(await redis.keys("*"))
    job_id, message, _ = await bench.submit(key="k", fingerprint="f")
    assert message is not None
    assert await bench.jobs.withdraw(TENANT, job_id, "k") is None
    tombstone = f"{bench.tag}gone:{TENANT}:{job_id}".encode()
    assert set(await redis.keys("*")) == before | {tombstone}
    assert await bench.claim(message) == "withdrawn"
    assert (await bench.submit(key="k", fingerprint="other"))[2] == "accepted"


async def test_a_job_that_went_on_cannot_be_withdrawn(bench: Bench) -> None:
    job_id, _, _ = await bench.running()
    left = await bench.jobs.withdraw(TENANT, job_id, None)
    assert left is not None
    assert json.loads(left)["status"] == "running"


async def test_a_large_result_stands_apart(bench: Bench) -> None:
    job_id, _, claim = await bench.running()
    large = json.dumps("x" * 20_000)
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="succeeded", result=large, apart=True)
    job = await bench.job(job_id)
    assert job["result"] is None
    assert job["result_url"] == f"/v1/jobs/{job_id}/result"
    result = await bench.jobs.result(TENANT, job_id)
    assert result is not None
    assert result.json == large.encode()


async def test_progress_in_the_log_is_bounded_and_the_newest_stays(bench: Bench) -> None:
    job_id, _, claim = await bench.running()
    for op in range(1, MAX_PROGRESS + 31):
        await bench.jobs.advance(
            TENANT, job_id, fence=claim.fence, op=op, to="progress", progress=f'{{"done":{op}}}', lease_ms=9000
        )
    events = await bench.events(f"job:{job_id}")
    assert events[:2] == ["job.queued", "job.started"]
    assert events.count("job.progress") == MAX_PROGRESS
    history = await bench.channels.history(TENANT, f"job:{job_id}", since=Position("", 5), limit=-1)
    assert history.complete  # what is missing was superseded
    assert json.loads(history.publications[-1].event)["data"]["progress"] == {"done": MAX_PROGRESS + 30}


async def test_list_by_filters_and_cursor(bench: Bench) -> None:
    ids = [(await bench.submit())[0] for _ in range(5)]
    running, _, _ = await bench.running()
    newest = sorted([*ids, running], reverse=True)
    found, before = await bench.jobs.find(TENANT, limit=4)
    assert [json.loads(job)["id"] for job in found] == newest[:4]
    rest, end = await bench.jobs.find(TENANT, limit=4, before=before)
    assert [json.loads(job)["id"] for job in rest] == newest[4:]
    assert end == ""
    only, _ = await bench.jobs.find(TENANT, limit=4, status="running", type="echo", owner="ann")
    assert [json.loads(job)["id"] for job in only] == [running]
    assert await bench.jobs.find("other", limit=4) == ([], "")


async def test_cancelling_what_has_not_started_ends_it(bench: Bench) -> None:
    message = await bench.queued()
    job_id = message.id
    await bench.jobs.cancel(TENANT, job_id)
    assert (await bench.job(job_id))["status"] == "cancelled"
    assert await bench.claim(message) == "cancelled"
    assert await bench.store.client.hget(bench.tag + "open", TENANT) == b"0"
    with pytest.raises(Conflict):
        await bench.jobs.cancel(TENANT, job_id)


@pytest.mark.parametrize(
    ("to", "ends"), [("cancelled", "cancelled"), ("succeeded", "succeeded"), ("retrying", "cancelled")]
)
async def test_cancelling_what_runs_asks_its_worker(bench: Bench, to: str, ends: str) -> None:
    job_id, _, claim = await bench.running()
    await bench.jobs.cancel(TENANT, job_id)
    assert (await bench.job(job_id))["status"] == "cancelling"
    assert await bench.jobs.heartbeat(TENANT, job_id, claim.fence, 10) is True
    facts = {"error": "{}", "delay_ms": 1, "lease_ms": 9000}
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to=to, **facts)
    assert (await bench.job(job_id))["status"] == ends
    assert (await bench.events(f"job:{job_id}"))[-2:] == ["job.cancelling", f"job.{ends}"]


async def test_an_ended_job_runs_again_as_a_new_run(bench: Bench) -> None:
    job_id, old, claim = await bench.running()
    with pytest.raises(Conflict):
        await bench.jobs.rerun(TENANT, job_id, lease=5, max_open=9)
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="failed", error='{"type":"X"}')
    with pytest.raises(QuotaExceeded):
        await bench.jobs.rerun(TENANT, job_id, lease=5, max_open=0)
    again = await bench.jobs.rerun(TENANT, job_id, lease=5, max_open=9)
    assert again is not None
    job, message = json.loads(again[0]), again[1]
    assert message is not None
    assert (job["status"], job["run"], job["attempt"], job["error"]) == ("accepted", 2, 1, None)
    assert await bench.claim(old, token="late") == "another attempt"
    second = await bench.claim(message, token="again")
    assert isinstance(second, Claim)
    await bench.jobs.advance(TENANT, job_id, fence=second.fence, op=1, to="succeeded", result="1")
    ended = await bench.job(job_id)
    assert [(attempt["run"], bool(attempt["error"])) for attempt in ended["attempts"]] == [(1, True), (2, False)]
    assert await bench.store.client.hget(bench.tag + "open", TENANT) == b"0"
