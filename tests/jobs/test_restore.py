"""`gateway jobs rebuild`: stored jobs that are missing or damaged come back from their logs."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from click.testing import CliRunner, Result

from consumers.outcome import describe
from gateway.__main__ import main
from gateway.errors import StaleFence
from gateway.jobs.dead_filter import Filter
from gateway.jobs.deadletters import DeadLetters
from gateway.jobs.records import Claim
from gateway.jobs.restore import DAMAGED, MISSING, Restorer
from gateway.jobs.task_types import TaskType
from tests.jobs.bench import TENANT, Bench
from tests.jobs.test_replay import ERROR
from tests.jobs.walks import Walk


@pytest.fixture
def restorer(bench: Bench) -> Restorer:
    return Restorer(bench.store, bench.channels)


def key(bench: Bench, job_id: str) -> str:
    return f"{bench.tag}job:{TENANT}:{job_id}"


async def ended(bench: Bench, to: str = "failed", **facts: Any) -> str:
    job_id, _, claim = await bench.running()
    facts = facts or {"error": ERROR}
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to=to, **facts)
    return job_id


async def read(bench: Bench, job_id: str) -> dict[str, Any]:
    """The job; which worker had an attempt is the one thing that does not come back."""
    job = await bench.job(job_id)
    return {**job, "attempts": [{**attempt, "worker": None} for attempt in job["attempts"]]}


@pytest.mark.parametrize("damage", ["gone", "unreadable", "changed", "hash"])
@pytest.mark.parametrize("facts", [{}, {"result": "1", "to": "succeeded"}, {"to": "cancelled"}])
async def test_an_ended_job_comes_back(bench: Bench, restorer: Restorer, damage: str, facts: dict[str, str]) -> None:
    job_id = await ended(bench, **facts)
    before, client = await read(bench, job_id), bench.store.client
    match damage:
        case "gone":
            await client.hdel(key(bench, job_id), "d")
        case "unreadable":
            await client.hset(key(bench, job_id), "d", "\x93broken")
        case "changed":
            other = await ended(bench, to="succeeded", result="2")
            await client.hset(key(bench, job_id), "d", await client.hget(key(bench, other), "d"))
        case _:
            await client.delete(key(bench, job_id))
    checked = await restorer.check(TENANT, job_id)
    assert checked.differences
    assert await restorer.restore(checked) is None
    assert await read(bench, job_id) == before
    assert not (await restorer.check(TENANT, job_id)).differences
    found, _ = await bench.jobs.find(TENANT, limit=10, status=before["status"])
    assert any(job_id.encode() in job for job in found)
    if damage != "changed":
        assert await restorer.restore(checked) == "it has changed meanwhile"  # it was seen when it was damaged


async def test_a_running_job_that_was_unreadable_is_recovered_and_its_worker_refused(
    bench: Bench, restorer: Restorer
) -> None:
    job_id, _, claim = await bench.running()
    await bench.store.client.hset(key(bench, job_id), "d", "broken")
    checked = await restorer.check(TENANT, job_id)
    assert checked.version == DAMAGED
    assert await restorer.restore(checked) is None
    with pytest.raises(StaleFence):
        await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="succeeded", result="1")
    assert (await bench.jobs.due(bench.tag, limit=10, lease=60, publish=True)).lost == 1
    assert (await bench.job(job_id))["attempt"] == 2
    (message,) = (await bench.jobs.due(bench.tag, limit=10, lease=60, publish=True)).messages
    assert message.channels == ("user:ann", "jobs")
    assert message.timeout == 60
    assert isinstance(await bench.claim(message, token="next"), Claim)
    assert not (await restorer.check(TENANT, job_id)).differences


async def test_what_cannot_be_restored_is_left_alone(bench: Bench, restorer: Restorer) -> None:
    accepted, _, _ = await bench.submit()
    assert not (await restorer.check(TENANT, accepted)).differences
    await bench.store.client.delete(key(bench, accepted))
    lost = await restorer.check(TENANT, accepted)
    assert (lost.version, lost.differences) == (MISSING, [])  # nobody can tell that it was there
    running, _, _ = await bench.running()
    await bench.store.client.delete(key(bench, running))
    assert await restorer.restore(await restorer.check(TENANT, running)) == (
        "it is open and its input is lost; the message of its attempt rebuilds it"
    )
    ahead = await ended(bench)
    log = f"{bench.tag}log:{TENANT}:job:{ahead}"
    newest: Any = await bench.store.client.xrevrange(log, count=1)
    await bench.store.client.xdel(log, newest[0][0])
    assert await restorer.restore(await restorer.check(TENANT, ahead)) == "its log has faults itself"
    await bench.store.client.hset(f"{bench.tag}meta:{TENANT}:job:{ahead}", "offset", "2")
    why = await restorer.restore(await restorer.check(TENANT, ahead))
    assert why == "it is ahead of its log: version 4, there 3"


async def test_random_lives_are_restored_wherever_they_stand(bench: Bench, restorer: Restorer) -> None:
    for seed in range(20):
        walk = Walk(bench, random.Random(seed))
        await walk.begin()
        for _ in range(15):
            await walk.step()
        before = await bench.job(walk.id)
        await bench.store.client.hset(key(bench, walk.id), "d", "broken")
        checked = await restorer.check(TENANT, walk.id)
        if not checked.told.job:
            continue
        assert await restorer.restore(checked) is None
        after = await bench.job(walk.id)
        if before["status"] != "accepted":  # a step without an event
            assert after == before
        assert not (await restorer.check(TENANT, walk.id)).differences


async def test_the_command(bench: Bench, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_REDIS_URL", redis_url)
    good, bad = await ended(bench), await ended(bench, "cancelled", lease_ms=1)
    await bench.store.client.hdel(key(bench, bad), "d")

    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, main, ["jobs", "rebuild", *arguments])

    checked = await run("--all", "--check")
    assert (checked.exit_code, bad in checked.output, good in checked.output) == (1, True, False)
    assert "2 jobs looked at, 1 left" in checked.output
    assert (await run(bad)).exit_code == 0
    assert "2 jobs looked at, 0 left" in (await run("--all", "--check", "--tenant", TENANT)).output
    assert (await run()).exit_code == 2
    for arguments, said in (
        (["job_x"], "neither a job 'job_x' nor its log"),
        (["--all", "--tenant", "x y"], "/tenant"),
    ):
        wrong = await run(*arguments)
        assert (wrong.exit_code, said in wrong.output) == (1, True)


@pytest.mark.parametrize("damage", ["gone", "unreadable", "older"])
async def test_a_failed_job_that_is_restored_is_the_dead_letter_it_was(
    bench: Bench, restorer: Restorer, damage: str
) -> None:
    letters = DeadLetters(bench.store, None, bench.settings)
    job_id, _, claim = await bench.running(unique="k")
    client = bench.store.client
    older = await client.hget(key(bench, job_id), "d")
    error = describe(ValueError("row 7 is bad"), 1, retryable=False)
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="failed", error=error)
    before = await letters.show(TENANT, job_id)
    match damage:
        case "gone":
            await client.hdel(key(bench, job_id), "d")
        case "unreadable":
            await client.hset(key(bench, job_id), "d", "\x93broken")
        case _:
            await client.hset(key(bench, job_id), "d", older)
    assert await restorer.restore(await restorer.check(TENANT, job_id)) is None
    assert without_worker(await letters.show(TENANT, job_id)) == without_worker(before)
    found = await letters.find(TENANT, Filter(), limit=10, bare=True)
    assert found.items == [job_id.encode()]
    await letters.requeue(TENANT, job_id)
    assert (await letters.find(TENANT, Filter(), limit=10)).total == 0


def without_worker(letter: bytes) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(letter)
    for attempt in shown["job"]["attempts"]:
        attempt["worker"] = None
    return shown


async def test_a_job_that_is_restored_as_ended_holds_nothing(bench: Bench, restorer: Restorer) -> None:
    await bench.jobs.register({"echo": TaskType("default", 3, 60.0, max_running=1)})
    job_id, _, claim = await bench.running(unique="k")
    client = bench.store.client
    older = await client.hget(key(bench, job_id), "d")
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="succeeded", result="1")
    # As after a loss that took the end, but not its event.
    await client.hset(key(bench, job_id), "d", older)
    await client.sadd(f"{bench.tag}adm:t:echo", f"{TENANT} {job_id}")
    await client.set(f"{bench.tag}uniq:{TENANT}:echo:k", job_id)
    await client.hincrby(f"{bench.tag}open", TENANT, 1)
    await client.hincrby(f"{bench.tag}open:type", "echo", 1)
    assert await restorer.restore(await restorer.check(TENANT, job_id)) is None
    assert not await client.exists(f"{bench.tag}uniq:{TENANT}:echo:k")
    assert await client.hget(f"{bench.tag}open", TENANT) == b"0"
    _, _, kind = await bench.submit()
    assert kind == "accepted"
