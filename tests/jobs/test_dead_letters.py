"""The index of the dead letters on a real Redis: what gets in, what leaves, what is found, what the tenant hears."""

from __future__ import annotations

import json

import msgspec
import pytest
from redis.asyncio import Redis

from consumers.outcome import GiveUp, describe
from gateway.errors import Conflict, NotFound
from gateway.jobs.dead_filter import Filter
from gateway.jobs.deadletters import DeadLetters
from gateway.jobs.records import Claim, Holder
from gateway.jobs.sagas import SagaStore
from gateway.store.deadletters import UNOWNED, DeadLetterStore
from tests.jobs.bench import TENANT, Bench, dump
from tests.jobs.dead import EVERYTHING, failing, listed, told


async def test_a_failed_job_is_a_dead_letter_until_it_runs_again(bench: Bench, letters: DeadLetters) -> None:
    job_id = await failing(bench)
    (item,) = (await letters.find(TENANT, EVERYTHING, limit=10)).items
    letter = json.loads(item)
    job = await bench.job(job_id)
    del job["attempts"]
    assert letter["job"] == job
    assert letter["died_at"] == job["finished_at"]
    assert (letter["id"], letter["kind"], letter["reason"], letter["message"]) == (job_id, "job", "failed", None)
    assert letter["group"]["error_type"] == "ValueError"
    assert letter["group"]["message"] == "row <id> is bad"

    await letters.requeue(TENANT, job_id)
    assert await listed(letters) == []
    job = await bench.job(job_id)
    assert (job["status"], job["run"], len(job["attempts"])) == ("accepted", 2, 1)
    (due,) = (await bench.jobs.due(bench.tag, limit=10, lease=60, publish=True)).messages
    assert (due.id, due.run) == (job_id, 2)
    with pytest.raises(NotFound):
        await letters.show(TENANT, job_id)
    with pytest.raises(Conflict):
        await letters.requeue(TENANT, job_id)


async def test_it_is_shown_with_its_input_and_attempts(bench: Bench, letters: DeadLetters) -> None:
    job_id = await failing(bench)
    shown = json.loads(await letters.show(TENANT, job_id))
    assert shown["job"]["input"] == {"value": []}
    assert shown["job"]["attempts"][0]["error"]["type"] == "ValueError"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (describe(ValueError("x"), 3, retryable=True), "failed"),
        (describe(GiveUp("x"), 1, retryable=False), "given-up"),
        ('{"type":"Uncertain","message":"x","retryable":false}', "uncertain"),
        ('{"type":"CompensationFailed","message":"x","retryable":true}', "undo-failed"),
        ("{}", "failed"),
    ],
)
async def test_the_error_tells_the_reason(bench: Bench, letters: DeadLetters, error: str, reason: str) -> None:
    job_id = await failing(bench, error)
    assert await listed(letters, reason=reason) == [job_id]
    assert await listed(letters, reason="crashed") == []


@pytest.mark.parametrize("undone", [True, False])
async def test_a_job_that_is_undone_first_dies_of_what_began_it_or_of_the_undoing(
    bench: Bench, letters: DeadLetters, *, undone: bool
) -> None:
    job_id, _, claim = await bench.running()
    holder, sagas = Holder.of(TENANT, job_id, claim), SagaStore(bench.jobs)
    await sagas.step(holder, "a", "started", undo="undo-a")
    error = describe(OSError("disk"), 1, retryable=True)
    fence = claim.fence
    await bench.jobs.advance(TENANT, job_id, fence=fence, op=1, to="failed", error=error, lease_ms=9000)
    assert (await bench.job(job_id))["status"] == "compensating"
    assert await listed(letters) == []
    await sagas.step(holder, "a", "undoing")
    if undone:
        await sagas.step(holder, "a", "undone")
        await bench.jobs.advance(TENANT, job_id, fence=fence, op=2, to="compensated")
        assert await listed(letters, error_type="OSError", reason="failed") == [job_id]
    else:
        error = '{"type":"CompensationFailed","message":"x","retryable":true}'
        await bench.jobs.advance(TENANT, job_id, fence=fence, op=2, to="failed", error=error)
        assert await listed(letters, reason="undo-failed") == [job_id]
        again = await bench.jobs.rerun(TENANT, job_id, lease=5, max_open=9)
        assert again is not None
        assert again[1] is not None
        retaken = await bench.claim(again[1], token="again")
        assert isinstance(retaken, Claim)
        holder, fence = Holder.of(TENANT, job_id, retaken), retaken.fence
        for to in ("undoing", "undone"):
            await sagas.step(holder, "a", to)
        await bench.jobs.advance(TENANT, job_id, fence=fence, op=1, to="compensated")
        assert await listed(letters, error_type="OSError", reason="failed") == [job_id]


async def test_a_job_whose_worker_is_lost_three_times_has_crashed(bench: Bench, letters: DeadLetters) -> None:
    job_id, _, _ = await bench.running(max_attempts=9)
    for crash in (1, 2, 3):
        await bench.store.client.zadd(bench.tag + "due", {f"{TENANT} {job_id}": 0})
        assert (await bench.jobs.due(bench.tag, limit=10, lease=60, publish=True)).lost == 1
        if crash < 3:
            await bench.store.client.zadd(bench.tag + "due", {f"{TENANT} {job_id}": 0})
            (message,) = (await bench.jobs.due(bench.tag, limit=10, lease=60, publish=True)).messages
            await bench.claim(message, token=f"delivery {crash}")
    assert await listed(letters, reason="crashed", error_type="WorkerLost") == [job_id]
    assert (await bench.job(job_id))["error"]["message"] == "the worker was lost 3 times in this run"


async def test_a_worker_lost_in_the_last_attempt_fails_the_job(bench: Bench, letters: DeadLetters) -> None:
    job_id, _, _ = await bench.running(max_attempts=1)
    await bench.store.client.zadd(bench.tag + "due", {f"{TENANT} {job_id}": 0})
    await bench.jobs.due(bench.tag, limit=10, lease=60, publish=True)
    assert await listed(letters, reason="failed", error_type="WorkerLost") == [job_id]


async def test_a_discarded_job_stays_failed_and_is_no_dead_letter(bench: Bench, letters: DeadLetters) -> None:
    job_id = await failing(bench)
    await letters.discard_one(TENANT, job_id)
    assert await listed(letters) == []
    assert (await bench.job(job_id))["status"] == "failed"
    with pytest.raises(NotFound):
        await letters.discard_one(TENANT, job_id)
    with pytest.raises(NotFound):
        await letters.requeue(TENANT, job_id)
    assert await bench.jobs.rerun(TENANT, job_id, lease=5, max_open=100), "an ended job can still run again"
    assert await listed(letters) == []


async def test_a_job_that_is_forgotten_leaves_nothing(bench: Bench, letters: DeadLetters, redis: Redis) -> None:
    job_id = await failing(bench)
    await bench.jobs.purge(bench.tag, [(TENANT, job_id)], retention=0)
    assert await listed(letters) == []
    left = [key for key in await dump(redis) if b":dead" in key]
    assert left == []


async def test_a_job_that_succeeds_or_is_cancelled_never_is_one(bench: Bench, letters: DeadLetters) -> None:
    job_id, _, claim = await bench.running()
    await bench.jobs.cancel(TENANT, job_id)
    await bench.jobs.advance(
        TENANT, job_id, fence=claim.fence, op=1, to="failed", error=describe(ValueError(), 1, retryable=True)
    )
    job_id, _, claim = await bench.running()
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="succeeded", result="1")
    assert await listed(letters) == []
    assert await told(bench) == []


async def test_the_operator_hears_of_the_first_of_each_new_group_and_of_the_last(
    bench: Bench, letters: DeadLetters
) -> None:
    first = await failing(bench)
    await failing(bench)
    third = await failing(bench, describe(OSError("disk"), 1, retryable=True))
    heard = [(event["type"], event["data"].get("id")) for event in await told(bench)]
    opened, fresh, cleared = "dead-letters.opened", "dead-letters.new-group", "dead-letters.cleared"
    assert heard == [(opened, first), (fresh, first), (fresh, third)]
    await letters.discard_many(TENANT, EVERYTHING, limit=2)
    assert len(await told(bench)) == 3
    await letters.discard_many(TENANT, EVERYTHING, limit=2)
    await failing(bench)
    assert [event["type"] for event in await told(bench)][3:] == [cleared, opened, fresh]
    ids = [event["id"] for event in await told(bench)]
    assert len(set(ids)) == len(ids)


async def test_groups_count_what_is_the_same(bench: Bench, letters: DeadLetters, messages: DeadLetterStore) -> None:
    ids = [await failing(bench) for _ in range(3)]
    other = await failing(bench, describe(OSError("disk"), 1, retryable=True))
    groups, after, total = await messages.groups(TENANT, limit=1)
    assert (groups[0].entries, groups[0].sample, total) == (1, other, 2)
    assert after is not None
    groups, after, _ = await messages.groups(TENANT, limit=1, after=after)
    assert (groups[0].entries, groups[0].sample, after) == (3, ids[-1], None)
    assert groups[0].first_seen <= groups[0].last_seen
    name = json.loads(groups[0].json)["id"]
    assert sorted(await listed(letters, group=name)) == sorted(ids)
    await letters.discard_many(TENANT, msgspec.convert({"group": name}, Filter), limit=10)
    assert await listed(letters) == [other]
    assert len((await messages.groups(TENANT, limit=9))[0]) == 1


async def test_a_tenant_sees_nothing_of_another(bench: Bench, letters: DeadLetters, messages: DeadLetterStore) -> None:
    job_id = await failing(bench)
    raw = await messages.bury(TENANT, "undecodable", "q", b"secret", {})
    for owner in ("acme", UNOWNED):
        assert await listed(letters, owner) == []
        assert (await messages.groups(owner, limit=9))[2] == 0
        for letter_id in (job_id, raw):
            with pytest.raises(NotFound):
                await letters.show(owner, letter_id)
            with pytest.raises(NotFound):
                await letters.requeue(owner, letter_id)
            with pytest.raises(NotFound):
                await letters.discard_one(owner, letter_id)
    assert await told(bench, "acme") == []
