"""What the broker has confirmed is recorded after the answer, soon, and not at all when a worker was faster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from gateway.jobs import confirmations
from gateway.jobs.confirmations import Confirmations
from gateway.jobs.local import LocalQueue
from gateway.jobs.records import Claim
from gateway.jobs.service import JobService
from tests.consumers.support import Bench, background, open_bench
from tests.support.proxy import TcpProxy
from tests.support.waiting import eventually

WORKER: dict[str, Any] = {"lease": 30.0, "worker": "w"}


def noting(bench: Bench, confirmed: Confirmations) -> None:
    """Have the bench's submissions recorded as the web process does."""
    bench.service = JobService(
        bench.jobs, bench.queue, bench.channels, bench.watcher, bench.settings, confirmations=confirmed
    )


@pytest.fixture
async def local(redis_url: str, redis: object, pool: str) -> AsyncIterator[Bench]:
    del redis
    async with LocalQueue() as queue, open_bench(redis_url, queue, pool) as bench:
        await queue.declare(pool)
        await bench.register("echo")
        yield bench


async def test_the_answer_is_accepted_and_queued_follows(local: Bench) -> None:
    confirmed = Confirmations(local.jobs)
    noting(local, confirmed)
    async with background(confirmed.run()):
        answers = [await local.accept(key=f"k{number}") for number in range(3)]
        assert [json.loads(answer.job)["status"] for answer in answers] == ["accepted"] * 3
        assert await local.accept(key="k0") == answers[0]._replace(replayed=True)
        for answer in answers:
            await local.until(answer.id, "queued")
            assert await local.events(answer.id) == ["job.queued"]


async def test_a_claim_that_was_faster_records_both_and_nothing_follows(local: Bench) -> None:
    confirmed = Confirmations(local.jobs)
    noting(local, confirmed)
    job_id, last = await local.submit(), await local.submit()
    assert (await local.job(job_id))["status"] == "accepted"
    claim = await local.jobs.claim(await local.message(job_id), token="faster", **WORKER)
    assert isinstance(claim, Claim)
    async with background(confirmed.run()):
        await local.until(last, "queued")
    assert (await local.job(job_id))["status"] == "running"
    assert await local.events(job_id) == ["job.queued", "job.started"]


async def test_a_stop_records_what_is_left(local: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirmations, "NAP", 3600.0)
    confirmed = Confirmations(local.jobs)
    noting(local, confirmed)
    async with background(confirmed.run()):
        job_ids = [await local.submit() for _ in range(confirmations.AT_ONCE + 1)]
        await asyncio.sleep(0)
    assert {(await local.job(job_id))["status"] for job_id in job_ids} == {"queued"}


async def test_when_too_many_wait_a_submission_records_itself(local: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirmations, "MOST", 2)
    noting(local, Confirmations(local.jobs))
    answers = [json.loads((await local.accept()).job) for _ in range(3)]
    assert [answer["status"] for answer in answers] == ["accepted", "accepted", "queued"]


async def test_what_cannot_be_recorded_holds_nothing_up(redis_url: str, local: Bench) -> None:
    async with (
        TcpProxy(urlsplit(redis_url).port or 0) as way,
        open_bench(way.url(redis_url), local.queue, "x") as other,
    ):
        confirmed = Confirmations(other.jobs)
        noting(local, confirmed)
        way.cut()
        with capture_logs() as lines:
            async with background(confirmed.run()):
                lost = await local.submit()
                await eventually(lambda: [line["event"] for line in lines] == ["job.queued_unrecorded"])
                way.resume()
                await local.until(await local.submit(), "queued")
    assert (await local.job(lost))["status"] == "accepted"
    assert lost in await local.due()  # published once more, unless a worker claims it
