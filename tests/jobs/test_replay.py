"""A job's log alone tells the stored job."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.events import Position
from gateway.jobs.model import MAX_PROGRESS
from gateway.jobs.replay import Difference, Told, differences, replay
from gateway.schemas import Data
from tests.jobs.bench import TENANT, Bench
from tests.jobs.walks import Walk

ERROR = '{"type":"X","message":"no","attempt":1,"retryable":true}'


async def told(bench: Bench, job_id: str) -> Told:
    history = await bench.channels.history(TENANT, f"job:{job_id}", since=Position("", 0), limit=-1)
    return replay(publication.event for publication in history.publications)


async def stored(bench: Bench, job_id: str) -> tuple[Data, list[Data]]:
    job = await bench.jobs.get(TENANT, job_id, full=True)
    assert job is not None
    attempts = [msgspec.json.decode(attempt, type=Data) for attempt in job.attempts]
    return msgspec.json.decode(job.json, type=Data), attempts


async def agree(bench: Bench, job_id: str) -> Told:
    """What the log tells; it is well, and the stored job is the same."""
    found = await told(bench, job_id)
    assert found.faults == []
    assert differences(*await stored(bench, job_id), found) == []
    return found


async def test_every_way_a_job_can_go(bench: Bench) -> None:
    async def end(to: str, **facts: Any) -> str:
        job_id, _, claim = await bench.running()
        await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to=to, **facts)
        return job_id

    await bench.jobs.cancel(TENANT, cancelled := (await bench.submit())[0])
    ways = {
        "accepted": (await bench.submit())[0],
        "scheduled": (await bench.submit(delay_ms=60_000))[0],
        "cancelled": cancelled,
        "succeeded": await end("succeeded", result='{"a":1.0}'),
        "failed": await end("failed", error=ERROR),
        "retrying": await end("retrying", error=ERROR, delay_ms=9000),
    }
    for status, job_id in ways.items():
        found = await agree(bench, job_id)
        assert found.status == ("" if status == "accepted" else status)
    large = await agree(bench, await end("succeeded", result=json.dumps("x" * 20_000), apart=True))
    assert b"/result" in bytes(large.job["result_url"])
    expired, message, _ = await bench.submit(ttl_ms=1)
    await bench.store.client.zadd(bench.tag + "due", {f"{TENANT} {expired}": 0})
    walk = Walk(bench, random.Random(1))
    walk.id, walk.message = expired, message
    while (await told(bench, expired)).status != "expired":
        await walk.lose()
    await agree(bench, expired)
    await bench.jobs.rerun(TENANT, ways["failed"], lease=5, max_open=100)
    again = await agree(bench, ways["failed"])
    assert again.status == "failed"  # the acceptance is known to who asked for it
    assert len(again.attempts) == 1


async def test_pruned_progress_leaves_the_job(bench: Bench) -> None:
    job_id, _, claim = await bench.running()
    for op in range(1, MAX_PROGRESS + 11):
        shown = f'{{"done":{op},"total":null,"fraction":null,"message":null}}'
        await bench.jobs.advance(
            TENANT, job_id, fence=claim.fence, op=op, to="progress", progress=shown, lease_ms=9000
        )  # fmt: skip
    found = await agree(bench, job_id)
    assert found.superseded == 10 + 1  # and its acceptance


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 40))
async def test_random_lives(bench: Bench, seed: int, steps: int) -> None:
    walk = Walk(bench, random.Random(seed))
    await walk.begin()
    for _ in range(steps):
        await walk.step()
        if walk.chance.random() < 0.3:
            await agree(bench, walk.id)
    await agree(bench, walk.id)


async def test_what_is_wrong_with_a_log_is_said(bench: Bench) -> None:
    job_id, _, claim = await bench.running()
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="failed", error=ERROR)
    history = await bench.channels.history(TENANT, f"job:{job_id}", since=Position("", 0), limit=-1)
    queued, started, failed = (publication.event for publication in history.publications)
    job, attempts = await stored(bench, job_id)
    for log, fault in [
        ([started, failed], "cannot be the first"),
        ([queued, failed, failed], "comes after version"),
        ([queued, started, failed, started], "comes after version"),
        ([queued, started.replace(b'"run":1', b'"run":2'), failed], "begins run 2"),
        ([queued, started.replace(b"job.started", b"job.failed"), failed], "tells of a job that is running"),
        ([queued, started.replace(b'"id":"', b'"id":"x', 1), failed], "has the id x"),
        ([queued, b"{}", started, failed], "cannot be read"),
        ([queued, started.replace(b":job:2", b":job:99", 1), failed], "known here"),
    ]:
        assert any(fault in said for said in replay(log).faults), fault
    assert differences(job, attempts, replay([queued, started])) != []
    assert differences({**job, "run": msgspec.Raw(b"9")}, attempts, replay([queued, started, failed])) == [
        Difference("run", b"9", b"1")
    ]
    assert [one.field for one in differences(job, [], replay([queued, started, failed]))] == ["attempts"]
