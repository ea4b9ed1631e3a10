"""The index of the dead letters on a real Redis: what gets in, what leaves, what is found, what the tenant hears."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from consumers.outcome import GiveUp, describe
from gateway.errors import Conflict, NotFound, QuotaExceeded
from gateway.events import Position
from gateway.jobs import deadletters as dealing
from gateway.jobs.dead_filter import Done, Filter
from gateway.jobs.deadletters import DeadLetters
from gateway.jobs.local import LocalQueue
from gateway.jobs.records import Claim, Holder
from gateway.jobs.sagas import SagaStore
from gateway.store import deadletters as module
from gateway.store.deadletters import MAX_BODY, MAX_HEADERS, MORE_HEADERS, UNOWNED, DeadLetterStore, shown_headers
from gateway.store.redis import Script
from tests.jobs.bench import TENANT, Bench, dump
from tests.support.waiting import eventually

EVERYTHING = Filter()


@pytest.fixture
def letters(bench: Bench) -> DeadLetters:
    return DeadLetters(bench.store, LocalQueue(), bench.settings)


@pytest.fixture
def messages(bench: Bench) -> DeadLetterStore:
    return DeadLetterStore(bench.store, bench.settings)


async def failing(bench: Bench, error: str = "", **changes: Any) -> str:
    job_id, _, claim = await bench.running(**changes)
    error = error or describe(ValueError(f"row {job_id} is bad"), 1, retryable=True)
    await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="failed", error=error)
    return job_id


async def listed(letters: DeadLetters, owner: str = TENANT, **filters: Any) -> list[str]:
    found = await letters.find(owner, msgspec.convert(filters, Filter), limit=100, bare=True)
    return [item.decode() for item in found.items]


async def told(bench: Bench, tenant: str = TENANT) -> list[dict[str, Any]]:
    history = await bench.channels.history(tenant, "ops", since=Position("", 0), limit=-1)
    return [json.loads(item.event) for item in history.publications]


async def next_millisecond(bench: Bench) -> None:
    """Wait until the server's clock has moved: what dies in the same millisecond has no order."""

    async def now() -> int:
        seconds, micros = await bench.store.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    began = await now()

    async def later() -> bool:
        return await now() > began

    await eventually(later)


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


async def test_a_message_is_kept_whole_with_what_is_known_of_it(
    letters: DeadLetters, messages: DeadLetterStore
) -> None:
    headers = {"traceparent": "00-a", "x-death": [{"count": 3, "queue": "q"}], "bin": b"\xff", "big": 1 << 70}
    raw = await messages.bury(
        TENANT, "undecodable", "jobs.default.bulk", b"\xff\x00", headers, detail="not UTF-8 (byte 0)", message_id="m1"
    )
    assert raw == await messages.bury(TENANT, "undecodable", "jobs.default.bulk", b"\xff\x00", {}, message_id="m1")
    shown = json.loads(await letters.show(TENANT, raw))
    assert (shown["kind"], shown["reason"], shown["job"]) == ("message", "undecodable", None)
    message = shown["message"]
    assert message["body"] == {"base64": "/wA=", "text": None}
    assert message["headers"] == {**headers, "bin": "\\xff", "big": str(1 << 70)}
    assert (message["source"], message["message_id"], message["times"]) == ("jobs.default.bulk", "m1", 2)
    assert (message["size"], message["cut"]) == (2, False)
    assert (shown["group"]["error_type"], shown["group"]["message"]) == ("Undecodable", "not UTF-<n> (byte <n>)")
    assert await listed(letters, type="echo") == []
    other = await messages.bury(TENANT, "undecodable", "jobs.default.bulk", b"\xff\x00", {}, message_id="m2")
    assert other != raw


async def test_a_message_that_is_too_large_is_cut_and_not_put_back(
    letters: DeadLetters, messages: DeadLetterStore
) -> None:
    raw = await messages.bury(TENANT, "undecodable", "q", b"x" * (MAX_BODY + 1), {})
    shown = json.loads(await letters.show(TENANT, raw))["message"]
    assert len(shown["body"]["text"]) == MAX_BODY
    assert (shown["size"], shown["cut"]) == (MAX_BODY + 1, True)
    with pytest.raises(Conflict, match="not kept whole"):
        await letters.requeue(TENANT, raw)
    assert await listed(letters) == [raw]


def test_headers_are_bounded_in_every_direction() -> None:
    deep: Any = "x"
    for _ in range(100):
        deep = [deep]
    assert len(json.dumps(shown_headers({"deep": deep}))) < 1000
    shown = shown_headers({f"h{number}": "x" * 10_000 for number in range(100)})
    assert MORE_HEADERS in shown
    assert len(json.dumps(shown)) < MAX_HEADERS + 100
    assert shown_headers({"\ud800": "\ud800"}) == {"?": "?"}


async def test_a_message_with_a_reason_that_is_no_word_is_refused(messages: DeadLetterStore) -> None:
    with pytest.raises(ValueError, match="not a reason"):
        await messages.bury(TENANT, 'x","a":"', "q", b"", {})


async def test_what_is_no_tenant_has_no_owner(messages: DeadLetterStore, letters: DeadLetters, bench: Bench) -> None:
    for tenant in (None, "", "a b", "x" * 65):
        await messages.bury(tenant, "undecodable", f"q{tenant}", b"x", {}, detail="it says secret")
    assert len(await listed(letters, UNOWNED)) == 4
    events = await told(bench)
    assert events[0]["data"]["unowned"]
    assert "secret" not in json.dumps(events)


async def test_old_messages_are_forgotten(messages: DeadLetterStore, letters: DeadLetters, redis: Redis) -> None:
    for number in range(3):
        await messages.bury(TENANT, "undecodable", "q", b"%d" % number, {})
    assert await messages.prune("{s00}:") == 0
    messages._retention_ms = -1
    assert await messages.prune("{s00}:") == 3
    assert await listed(letters) == []
    assert [key for key in await dump(redis) if b":dead" in key] == []


async def test_the_oldest_make_room(
    bench: Bench, letters: DeadLetters, messages: DeadLetterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = module._BURY.source.replace("RAW_MOST = 10000", "RAW_MOST = 3").replace("64 * 1024 * 1024", "2000")
    source = source.replace("DEAD_MOST = 100000", "DEAD_MOST = 4")
    monkeypatch.setattr(module, "_BURY", Script("small", source))
    jobs, raw = [], []
    for _ in range(2):
        jobs.append(await failing(bench))
        await next_millisecond(bench)
    for number in range(4):
        raw.append(await messages.bury(TENANT, "undecodable", "q", b"%d" % number, {}))
        await next_millisecond(bench)
    assert await listed(letters) == [*reversed(raw[1:]), jobs[1]]
    assert (await bench.job(jobs[0]))["status"] == "failed", "it is kept all the same"
    big = await messages.bury(TENANT, "undecodable", "q", b"x" * 1499, {})
    assert await listed(letters) == [big, jobs[1]], "bytes count too"
    assert (await letters.find(TENANT, EVERYTHING, limit=9)).dropped == 5
