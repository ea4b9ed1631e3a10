"""Effects on a real Redis: begun before, ended after, fenced, bounded, forgotten by a new run."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from gateway.errors import StaleFence
from gateway.jobs.effects import MAX_EFFECTS, Begun, EffectStore
from gateway.jobs.records import Claim, Holder
from tests.jobs.bench import TENANT, Bench, dump


@pytest.fixture
async def effects(bench: Bench) -> EffectStore:
    return EffectStore(bench.store)


@pytest.fixture
async def job(bench: Bench) -> Holder:
    job_id, _, claim = await bench.running()
    return Holder(TENANT, job_id, claim.fence)


async def next_attempt(bench: Bench, job: Holder) -> Holder:
    await bench.jobs.advance(TENANT, job.job_id, fence=job.fence, op=1, to="retrying", error="{}", delay_ms=0)
    (message,) = (await bench.jobs.due(bench.tag, limit=10, lease=60, publish=True)).messages
    claim = await bench.claim(message, token=f"after {job.fence}")
    assert isinstance(claim, Claim)
    return Holder(TENANT, job.job_id, claim.fence)


async def test_what_was_done_is_not_done_again(bench: Bench, effects: EffectStore, job: Holder) -> None:
    assert await effects.begin(job, "mail", "t1", again=False) == Begun("ok")
    await effects.end(job, "mail", "t1", b'{"sent":[]}')
    assert await effects.begin(job, "mail", "t2", again=False) == Begun("done", b'{"sent":[]}')
    assert await effects.begin(await next_attempt(bench, job), "mail", "t3", again=True) == Begun(
        "done", b'{"sent":[]}'
    )


@pytest.mark.parametrize("again", [False, True])
async def test_what_may_have_been_done(bench: Bench, effects: EffectStore, job: Holder, *, again: bool) -> None:
    await effects.begin(job, "mail", "t1", again=again)
    assert await effects.begin(job, "mail", "t1", again=again) == Begun("ok"), "the answer was lost"
    second = await next_attempt(bench, job)
    assert (await effects.begin(second, "mail", "t2", again=again)).kind == ("ok" if again else "unknown")
    assert (await effects.begin(second, "other", "t3", again=False)).kind == "ok"


async def test_what_was_not_done_begins_anew(effects: EffectStore, job: Holder) -> None:
    await effects.begin(job, "mail", "t1", again=False)
    await effects.end(job, "mail", "t1", None)
    assert await effects.begin(job, "mail", "t2", again=False) == Begun("ok")


async def test_a_stale_fence_writes_nothing(bench: Bench, redis: Redis, effects: EffectStore, job: Holder) -> None:
    await effects.begin(job, "mail", "t1", again=False)
    await next_attempt(bench, job)
    before = await dump(redis)
    for step in (
        effects.begin(job, "other", "t2", again=True),
        effects.end(job, "mail", "t1", b"1"),
        effects.end(job, "mail", "t1", None),
    ):
        with pytest.raises(StaleFence):
            await step
    assert await dump(redis) == before


async def test_a_token_ends_only_what_it_began(effects: EffectStore, job: Holder) -> None:
    await effects.begin(job, "mail", "t1", again=False)
    for name, token in (("mail", "t2"), ("never", "t1")):
        with pytest.raises(StaleFence):
            await effects.end(job, name, token, b"1")
    await effects.end(job, "mail", "t1", b"1")
    await effects.end(job, "mail", "t1", None)  # late: it did happen
    assert (await effects.begin(job, "mail", "t3", again=False)).result == b"1"


async def test_a_run_has_only_so_many(effects: EffectStore, job: Holder) -> None:
    for number in range(MAX_EFFECTS):
        assert (await effects.begin(job, str(number), "t", again=False)).kind == "ok"
    assert (await effects.begin(job, "more", "t", again=True)).kind == "full"
    assert (await effects.begin(job, "0", "t", again=False)).kind == "ok"


async def test_a_new_run_begins_anew(bench: Bench, effects: EffectStore, job: Holder) -> None:
    await effects.begin(job, "mail", "t1", again=False)
    await effects.end(job, "mail", "t1", b"1")
    await bench.jobs.advance(TENANT, job.job_id, fence=job.fence, op=1, to="failed", error="{}")
    with pytest.raises(StaleFence):
        await effects.begin(job, "mail", "t2", again=False)
    accepted = await bench.jobs.rerun(TENANT, job.job_id, lease=5, max_open=10)
    assert accepted is not None
    assert accepted[1] is not None
    claim = await bench.claim(accepted[1], token="second run")
    assert isinstance(claim, Claim)
    assert await effects.begin(job._replace(fence=claim.fence), "mail", "t3", again=False) == Begun("ok")
