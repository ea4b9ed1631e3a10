"""Many dead letters on a real Redis: pages, filters, and calls that put back or discard a lot of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from consumers.outcome import describe
from gateway.errors import QuotaExceeded
from gateway.jobs import deadletters as dealing
from gateway.jobs.dead_filter import Done, Filter
from gateway.jobs.deadletters import DeadLetters
from tests.jobs.bench import TENANT, Bench
from tests.jobs.dead import EVERYTHING, failing, listed, next_millisecond


async def test_filters_narrow_and_pages_meet_everything_once(bench: Bench, letters: DeadLetters) -> None:
    await bench.jobs.register({"other": ("slow", 3, 60.0)})
    ids = [await failing(bench, **({"type": "other"} if number % 3 == 0 else {})) for number in range(12)]
    # All died in the same millisecond, as after a batch of lost leases.
    for key in await bench.store.client.keys(bench.tag + f"dead:{TENANT}*"):
        names: list[Any] = list(await bench.store.client.zrange(key, 0, -1))
        await bench.store.client.zadd(key, dict.fromkeys(names, 1_000_000.0))
    seen: list[str] = []
    after = None
    while True:
        page = await letters.find(TENANT, EVERYTHING, limit=5, after=after, bare=True)
        seen += [item.decode() for item in page.items]
        after = page.after
        if after is None:
            break
        await letters.discard(TENANT, [seen[-1]])  # the entry a cursor stands on may go
    assert sorted(seen) == sorted(ids)
    assert len(await listed(letters, type="other")) == len(await listed(letters, pool="slow"))
    assert set(await listed(letters, type="other")) <= set(ids[::3])
    assert await listed(letters, since="1970-01-01T00:16:40.001Z") == []
    assert len(await listed(letters, since="1970-01-01T00:16:40Z")) == 10
    assert await listed(letters, until="1970-01-01T00:16:39.999Z") == []
    assert len(await listed(letters, until="1970-01-01T00:16:40Z")) == 10


async def test_many_are_put_back_at_a_rate_and_only_as_far_as_the_quota_goes(
    bench: Bench, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [await failing(bench) for _ in range(5)]
    which = msgspec.convert({"type": "echo"}, Filter)
    assert (await letters.count(TENANT, which, limit=3)).matched == 3
    done = await letters.requeue_many(TENANT, which, limit=2, rate=0.01)
    assert (done.matched, done.done, done.failed) == (2, 2, [])
    due: list[Any] = list(await bench.store.client.zrange(bench.tag + "due", 0, -1, withscores=True))
    assert 99_000 < due[1][1] - due[0][1] < 101_000
    monkeypatch.setattr(letters, "_settings", msgspec.structs.replace(bench.settings, max_open_jobs=4))
    done = await letters.requeue_many(TENANT, which, limit=10, after=done.after)
    assert done.done == 2
    assert isinstance(done.failed[0][1], QuotaExceeded)
    assert done.after is not None
    monkeypatch.undo()
    done = await letters.requeue_many(TENANT, which, limit=10, after=done.after)
    assert (done.done, done.after) == (1, None)
    assert [(await bench.job(job_id))["run"] for job_id in ids] == [2] * 5


async def test_what_fails_again_is_not_met_again_when_the_quota_stops_a_call(
    bench: Bench, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await failing(bench)
        await next_millisecond(bench)
    monkeypatch.setattr(letters, "_settings", msgspec.structs.replace(bench.settings, max_open_jobs=1))
    done, calls = Done(0, 0, [], None), 0
    while calls == 0 or done.after:
        done = await letters.requeue_many(TENANT, EVERYTHING, limit=10, after=done.after)
        calls += 1
        assert calls <= 3
        for message in (await bench.jobs.due(bench.tag, limit=10, lease=60, publish=True)).messages:
            claim = await bench.held(message)
            error = describe(ValueError("still bad"), 1, retryable=True)
            await bench.jobs.advance(TENANT, message.id, fence=claim.fence, op=1, to="failed", error=error)
        await next_millisecond(bench)
    assert [json.loads(item)["job"]["run"] for item in (await letters.find(TENANT, EVERYTHING, limit=10)).items] == [
        2
    ] * 3


async def test_a_call_about_many_looks_at_so_many_and_says_where_to_go_on(
    bench: Bench, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.jobs.register({"other": ("slow", 3, 60.0)})
    wanted = await failing(bench, type="other")
    await next_millisecond(bench)
    for _ in range(5):
        await failing(bench)
    monkeypatch.setattr(dealing, "SCAN", 2)
    monkeypatch.setattr(dealing, "MAX_PAGES", 2)
    which = msgspec.convert({"type": "other"}, Filter)
    first = await letters.discard_many(TENANT, which, limit=10)
    assert (first.matched, first.done) == (0, 0)
    assert first.after is not None
    second = await letters.discard_many(TENANT, which, limit=10, after=first.after)
    assert (second.done, second.after) == (1, None)
    assert wanted not in await listed(letters)


async def test_two_who_put_the_same_back_start_it_once(bench: Bench, letters: DeadLetters) -> None:
    ids = [await failing(bench) for _ in range(20)]
    both = await asyncio.gather(*(letters.requeue_many(TENANT, EVERYTHING, limit=100) for _ in range(2)))
    assert sum(done.done for done in both) == 20
    assert [(await bench.job(job_id))["run"] for job_id in ids] == [2] * 20
