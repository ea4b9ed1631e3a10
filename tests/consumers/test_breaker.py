"""`ctx.breaker`: what opens it, what an open one does to jobs, and the probe."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from consumers import BreakerOpen, Context, GiveUp, LockBusy, Retry
from consumers.breaker import outcome_of
from consumers.registry import load
from gateway.store.breakers import Breakers, Rules
from tests.consumers.support import BEATING, TASKS, Bench
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("no_backoff")

ONE = Rules(failures=1)


class NotThere(LookupError):
    """A proper answer of the dependency."""


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "ok"),
        (NotThere(), "ok"),
        (LookupError(), "failed"),
        (TimeoutError(), "failed"),
        (asyncio.CancelledError(), "cut"),
        (Retry(), "void"),
        (GiveUp(), "void"),
        (LockBusy("m", after=1), "void"),
        (BreakerOpen("m", after=1), "void"),
        (SystemExit(), "void"),
    ],
)
def test_what_the_end_of_a_block_tells(error: BaseException | None, outcome: str) -> None:
    assert outcome_of(error, (NotThere,)) == outcome


async def opened(bench: Bench, name: str = "crm", rules: Rules = ONE) -> None:
    breakers = Breakers(bench.store)
    passage = await breakers.admit(name, rules, "t")
    assert await breakers.report(name, rules, passage.generation, "failed") == "open"


async def is_open(bench: Bench, name: str = "crm") -> bool:
    return (await Breakers(bench.store).admit(name, ONE, "t")).wait > 0


async def calling(ctx: Context, job_input: Any) -> Any:
    async with ctx.breaker("crm", ignore=(NotThere,), **(job_input or {})):
        return "passed"


async def test_an_open_breaker_puts_the_job_back_without_burning_an_attempt(bench: Bench) -> None:
    await opened(bench)
    async with bench.working(bench.task("calling", calling, max_attempts=1)):
        job_id = await bench.submit("calling")
        job = await bench.until(job_id, "retrying")
        assert (job["attempt"], job["attempts"], job["error"]["type"]) == (1, [], "BreakerOpen")
        assert 30 - 10 < (await bench.due())[job_id] - time.time() < 34 + 10
        for _ in range(3):
            await bench.make_due(job_id)
            version = job["version"]
            job = await eventually(lambda: _later(bench, job_id, version))  # noqa: B023 - awaited at once
        assert job["attempt"] == 1
        await bench.store.client.delete("{breaker:crm}state")  # it is well again
        await bench.make_due(job_id)
        assert (await bench.until(job_id, "succeeded"))["error"] is None
    attempt = ["job.queued", "job.started"]
    assert await bench.events(job_id) == [*[*attempt, "job.retrying"] * 4, *attempt, "job.succeeded"]


async def _later(bench: Bench, job_id: str, version: int) -> dict[str, Any]:
    job = await bench.job(job_id)
    return job if job["status"] == "retrying" and job["version"] > version else {}


async def test_failures_of_many_jobs_open_it_for_all(bench: Bench) -> None:
    calls = 0

    async def failing(ctx: Context, job_input: Any) -> Any:
        del job_input
        async with ctx.breaker("crm", failures=3):
            nonlocal calls
            calls += 1
            raise ConnectionError("refused")

    async with bench.working(bench.task("failing", failing, max_attempts=2), concurrency=1):
        ids = [await bench.submit("failing") for _ in range(6)]
        for job_id in ids[-3:]:
            await bench.until(job_id, "retrying")
        await eventually(lambda: is_open(bench))
    assert calls == 3


async def test_the_probe_closes_it(bench: Bench) -> None:
    rules = {"failures": 1, "cool_down": 0.05, "longest": 0.05}
    await opened(bench, rules=Rules(**rules))  # type: ignore[arg-type] # as a caller writes them
    async with bench.working(bench.task("calling", calling)):
        job_id = await bench.submit("calling", value=rules)

        async def through() -> bool:
            await bench.make_due(job_id)
            return bool((await bench.job(job_id))["status"] == "succeeded")

        await eventually(through)
    assert not await is_open(bench)


async def test_ignored_errors_and_what_the_task_says_of_itself_do_not_count(bench: Bench) -> None:
    async def answering(ctx: Context, job_input: Any) -> Any:
        error = {"ignored": NotThere(), "retry": Retry(after=3600), "give-up": GiveUp()}[job_input]
        async with ctx.breaker("crm", failures=1, ignore=(NotThere,)):
            raise error

    async with bench.working(bench.task("answering", answering, max_attempts=1)):
        for what in ("ignored", "retry", "give-up"):
            await bench.until(await bench.submit("answering", value=what), "failed")
    assert not await is_open(bench)


async def test_a_call_that_used_up_the_attempts_time_is_a_failure(bench: Bench) -> None:
    async def hanging(ctx: Context, job_input: Any) -> Any:
        del job_input
        async with ctx.breaker("crm", failures=1):
            await asyncio.sleep(60)

    async with bench.working(bench.task("hanging", hanging, timeout=2, max_attempts=1)):
        await bench.until(await bench.submit("hanging"), "failed")
    assert await is_open(bench)


async def test_a_call_that_was_cancelled_is_none(bench: Bench) -> None:
    bench.settings = bench.with_settings(lease=BEATING)

    async def hanging(ctx: Context, job_input: Any) -> Any:
        del job_input
        async with ctx.breaker("crm", failures=1):
            await asyncio.sleep(60)

    async with bench.working(bench.task("hanging", hanging)):
        job_id = await bench.submit("hanging")
        await bench.until(job_id, "running")
        await bench.service.cancel("default", job_id)
        await bench.until(job_id, "cancelled")
    assert not await is_open(bench)


async def test_a_thread_that_hangs_in_a_call_is_a_failure(bench: Bench) -> None:
    gate = threading.Event()

    def hanging(ctx: Context, job_input: Any) -> Any:
        del job_input
        with ctx.breaker("crm", failures=1):
            gate.wait(60)

    try:
        async with bench.working(bench.task("hanging", hanging, timeout=2, max_attempts=1)):
            await bench.until(await bench.submit("hanging"), "failed")
            assert await is_open(bench)
    finally:
        gate.set()


async def test_a_process_meets_an_open_breaker_and_opens_one(bench: Bench) -> None:
    await opened(bench)
    task = load(TASKS)["process.meets"]._replace(pool=bench.pool)
    async with bench.working(task):
        meets = await bench.submit("process.meets", value="open")
        job = await bench.until(meets, "retrying", 60)
        assert (job["attempt"], job["error"]["type"]) == (1, "BreakerOpen")
        hangs = await bench.submit("process.meets", value="hang", timeout=8)
        job = await bench.until(hangs, "failed", 60)
        assert job["error"]["type"] == "TaskTimeout"
    assert await is_open(bench, "hangs")
    assert not await bench.store.client.hexists(bench.tag + "lock:default:l", "owner"), "its lock has been given back"


async def test_rules_that_make_no_sense_fail_the_job(bench: Bench) -> None:
    async with bench.working(bench.task("calling", calling)):
        for rules, message in (({"rate": 2}, "rate must be"), ({"colour": 1}, "colour")):
            job = await bench.until(await bench.submit("calling", value=rules), "failed")
            assert message in job["error"]["message"]
            assert job["error"]["type"] == "GiveUp"
