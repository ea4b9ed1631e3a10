"""Messages that are dead letters, without a job: how they are kept, cut, bounded and forgotten."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.errors import Conflict
from gateway.jobs.deadletters import DeadLetters
from gateway.store import deadletters as module
from gateway.store.deadletters import MAX_BODY, MAX_HEADERS, MORE_HEADERS, UNOWNED, DeadLetterStore, shown_headers
from gateway.store.redis import Script
from tests.jobs.bench import TENANT, Bench, dump
from tests.jobs.dead import EVERYTHING, failing, listed, next_millisecond, told


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
