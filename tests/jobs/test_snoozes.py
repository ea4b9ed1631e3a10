"""Jobs that are put back without burning the attempt, and not for ever."""

from __future__ import annotations

import secrets

import pytest

from gateway.jobs.model import MAX_SNOOZES
from gateway.jobs.records import Claim
from tests.jobs.bench import TENANT, Bench

ERROR = '{"type":"BreakerOpen","message":"m","attempt":1,"retryable":true}'


async def snooze(bench: Bench, job_id: str, claim: Claim, delay_ms: int = 0) -> None:
    advance = bench.jobs.advance
    for _ in range(2):  # the first answer is lost
        version, state = await advance(
            TENANT, job_id, fence=claim.fence, op=1, to="snoozed", error=ERROR, delay_ms=delay_ms
        )
        assert version > 0
        assert state in {"retrying", "failed"}


async def again(bench: Bench) -> Claim:
    (message,) = (await bench.jobs.due(bench.tag, limit=10, lease=60, publish=True)).messages
    claim = await bench.claim(message, token=secrets.token_hex(8))
    assert isinstance(claim, Claim)
    return claim


async def test_a_snooze_burns_nothing(bench: Bench) -> None:
    job_id, _, claim = await bench.running()
    await snooze(bench, job_id, claim, 60_000)
    job = await bench.job(job_id)
    assert (job["status"], job["attempt"], job["attempts"]) == ("retrying", 1, [])
    assert job["error"]["type"] == "BreakerOpen"
    assert job["run_after"] is not None
    due = await bench.store.client.zscore(bench.tag + "due", f"{TENANT} {job_id}")
    assert due is not None
    assert (await bench.jobs.due(bench.tag, limit=10, lease=60, publish=True)).messages == []


async def test_the_claim_says_how_often(bench: Bench) -> None:
    job_id, _, claim = await bench.running()
    counts = []
    for _ in range(3):
        counts.append(claim.snoozes)
        await snooze(bench, job_id, claim)
        claim = await again(bench)
    assert counts == [0, 1, 2]
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="succeeded", result="1")
    assert (await bench.job(job_id))["error"] is None


@pytest.mark.parametrize(("max_attempts", "status"), [(2, "retrying"), (1, "failed")])
async def test_too_many_count_as_an_attempt(bench: Bench, max_attempts: int, status: str) -> None:
    job_id, _, claim = await bench.running(max_attempts=max_attempts)
    for _ in range(MAX_SNOOZES):
        await snooze(bench, job_id, claim)
        claim = await again(bench)
        assert claim.snoozes > 0
    await snooze(bench, job_id, claim)
    job = await bench.job(job_id)
    assert (job["status"], job["attempt"], len(job["attempts"])) == (status, max_attempts, 1)
    if status == "retrying":
        assert (await again(bench)).snoozes == 0


async def test_a_job_being_cancelled_is_not_put_back(bench: Bench) -> None:
    job_id, _, claim = await bench.running()
    await bench.jobs.cancel(TENANT, job_id)
    assert (await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="snoozed", error=ERROR, delay_ms=1))[
        1
    ] == "cancelled"
