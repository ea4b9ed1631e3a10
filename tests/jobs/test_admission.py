"""Who goes to the broker: caps, pause and turns, on a real Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.errors import Overloaded, QuotaExceeded
from gateway.events import new_id
from gateway.jobs.document import static_json
from gateway.jobs.queue import Message
from gateway.jobs.records import Claim
from gateway.jobs.refusal import Refusals
from gateway.jobs.task_types import TaskType, TaskTypes
from gateway.settings import Settings
from tests.jobs.bench import TRACE, Bench

BACKLOG = 5000


@pytest.fixture
def types(bench: Bench) -> TaskTypes:
    return TaskTypes(bench.store)


async def register(bench: Bench, name: str, cap: int = 0) -> None:
    await bench.jobs.register({name: TaskType("default", 5, 60, cap)})


async def submit(bench: Bench, name: str, tenant: str = "default", **changes: Any) -> tuple[str, Message | None]:
    job_id = new_id("job_")
    static = static_json(tenant, job_id, name, None, [], "default", TRACE)
    arguments = {"type": name, "static": static, "owner": None, "targets": [], "max_open": 100_000, **changes}
    if tenant == "default":
        await asyncio.sleep(0.002)  # order is by milliseconds
        _, message, kind = await bench.submit(job_id, **arguments)
    else:
        common = {"id": job_id, "priority": "default", "input": "{}", "traceparent": TRACE, "lease_ms": 5000}
        outcome = await bench.jobs.submit(tenant, **{**common, **arguments})
        message, kind = outcome.message, outcome.kind
    assert kind == ("accepted" if message is not None else "parked")
    return job_id, message


async def handed_out(bench: Bench, limit: int = 10, **options: Any) -> list[Message]:
    return (await bench.jobs.due(bench.tag, limit=limit, lease=5, publish=True, **options)).messages


async def run(bench: Bench, message: Message, to: str = "succeeded") -> None:
    claim = await bench.claim(message)
    assert isinstance(claim, Claim)
    facts = {"result": "1"} if to == "succeeded" else {"error": "{}", "delay_ms": 0}
    await bench.jobs.advance(message.tenant, message.id, fence=claim.fence, op=1, to=to, **facts)


async def test_jobs_of_a_paused_type_are_accepted_and_flow_after_it(bench: Bench, types: TaskTypes) -> None:
    await types.pause("echo", paused=True)
    ids = [(await submit(bench, "echo"))[0] for _ in range(3)]
    due = await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True)
    assert due.messages == []
    assert due.next_ms > 60_000, "nobody looks at them again and again"
    assert {(await bench.job(job_id))["status"] for job_id in ids} == {"accepted"}
    await types.pause("echo", paused=False)
    assert [message.id for message in await handed_out(bench)] == ids


async def test_what_is_in_the_broker_when_a_type_is_paused_waits_without_burning_its_attempt(
    bench: Bench, types: TaskTypes
) -> None:
    job_id, message = await submit(bench, "echo")
    assert message is not None
    await bench.jobs.queued(message)
    await types.pause("echo", paused=True)
    assert await bench.claim(message) == "paused"
    assert await bench.claim(message, token="redelivered") == "waiting"
    await bench.jobs.queued(message)  # a confirmation that comes late changes nothing
    assert await handed_out(bench) == []
    job = await bench.job(job_id)
    assert (job["status"], job["attempt"], job["attempts"]) == ("queued", 1, [])
    await types.pause("echo", paused=False)
    (again,) = await handed_out(bench)
    assert again == message
    await run(bench, again)
    assert await bench.events(f"job:{job_id}") == ["job.queued", "job.started", "job.succeeded"]


async def test_what_runs_when_its_type_is_paused_goes_on(bench: Bench, types: TaskTypes) -> None:
    job_id, _, claim = await bench.running()
    await types.pause("echo", paused=True)
    await bench.jobs.advance("default", job_id, fence=claim.fence, op=1, to="retrying", error="{}", delay_ms=0)
    assert await handed_out(bench) == []  # its next attempt waits
    await types.pause("echo", paused=False)
    assert [message.attempt for message in await handed_out(bench)] == [2]


async def test_a_pause_survives_that_workers_register_again(bench: Bench, types: TaskTypes) -> None:
    await types.pause("echo", paused=True)
    await register(bench, "echo", cap=7)
    (known,) = await types.known()
    assert (known.paused, known.max_running) == (True, 7)
    assert not await types.pause("nobody", paused=True)


async def test_a_paused_job_still_expires(bench: Bench, types: TaskTypes) -> None:
    await types.pause("echo", paused=True)
    job_id, _ = await submit(bench, "echo", ttl_ms=1)
    await asyncio.sleep(0.005)
    await handed_out(bench)
    assert (await bench.job(job_id))["status"] == "expired"
    assert [known.waiting for known in await types.known()] == [0]


async def test_a_long_backlog_of_a_pause_is_moved_in_bounded_chunks(bench: Bench, types: TaskTypes) -> None:
    await types.pause("echo", paused=True)
    ids = [(await submit(bench, "echo"))[0] for _ in range(25)]
    await types.pause("echo", paused=False)
    chunks = [await handed_out(bench) for _ in range(4)]
    assert [len(chunk) for chunk in chunks] == [10, 10, 5, 0]
    assert [message.id for chunk in chunks for message in chunk] == ids


async def test_a_type_has_only_as_many_jobs_admitted_as_its_cap_says_and_the_others_follow_in_order(
    bench: Bench, types: TaskTypes
) -> None:
    await register(bench, "capped", cap=2)
    jobs = [await submit(bench, "capped") for _ in range(5)]
    published = [message for _, message in jobs if message is not None]
    assert [message.id for message in published] == [job_id for job_id, _ in jobs[:2]]
    assert await handed_out(bench) == []
    order = []
    news = bench.jobs.news(bench.tag)
    while published:
        assert not news.is_set()
        message = published.pop(0)
        order.append(message.id)
        await run(bench, message)
        if len(order) <= 3:
            assert news.is_set(), "the reaper of this process is told"
            news.clear()
            published += await handed_out(bench)
    assert order == [job_id for job_id, _ in jobs]
    capped = next(known for known in await types.known() if known.type == "capped")
    assert (capped.open, capped.waiting, capped.admitted) == (0, 0, 0)


async def test_a_retry_gives_its_slot_to_who_waits(bench: Bench) -> None:
    await register(bench, "capped", cap=1)
    first, message = await submit(bench, "capped")
    second, _ = await submit(bench, "capped")
    assert message is not None
    await run(bench, message, to="retrying")
    (following,) = await handed_out(bench)
    assert following.id == second
    await run(bench, following)
    assert [(message.id, message.attempt) for message in await handed_out(bench)] == [(first, 2)]


async def test_a_higher_cap_lets_those_who_wait_go_on(bench: Bench) -> None:
    await register(bench, "capped", cap=1)
    jobs = [await submit(bench, "capped") for _ in range(3)]
    await register(bench, "capped", cap=0)
    assert [message.id for message in await handed_out(bench)] == [job_id for job_id, _ in jobs[1:]]


async def test_a_cap_counts_what_was_admitted_before_it_once_it_runs(bench: Bench) -> None:
    await register(bench, "late")
    _, message = await submit(bench, "late")
    await register(bench, "late", cap=1)
    assert message is not None
    assert isinstance(await bench.claim(message), Claim)
    assert (await submit(bench, "late"))[1] is None


async def test_a_tenant_has_only_so_many_jobs_admitted_and_delays_nobody_else(bench: Bench) -> None:
    await register(bench, "other")
    mine = [await submit(bench, name, "a", max_admitted=2) for name in ("echo", "other", "echo", "other")]
    assert [message is not None for _, message in mine] == [True, True, False, False]
    assert (await submit(bench, "echo", "b", max_admitted=2))[1] is not None
    assert await handed_out(bench, max_admitted=2) == []
    assert mine[0][1] is not None
    await run(bench, mine[0][1])
    assert len(await handed_out(bench, max_admitted=2)) == 1


async def test_tenants_take_turns_for_the_slots_of_a_type(bench: Bench) -> None:
    await register(bench, "capped", cap=1)
    _, running = await submit(bench, "capped", "a")
    for _ in range(20):
        await submit(bench, "capped", "a")
    await submit(bench, "capped", "b")
    order: list[str] = []
    while running is not None and len(order) < 4:
        await run(bench, running)
        (running,) = await handed_out(bench)
        order.append(running.tenant)
    assert "b" in order[:2]


async def test_within_a_lane_urgent_jobs_go_first(bench: Bench) -> None:
    await register(bench, "capped", cap=1)
    _, running = await submit(bench, "capped")
    assert running is not None
    late = [(await submit(bench, "capped", priority=priority))[0] for priority in ("bulk", "default", "critical")]
    order: list[str] = []
    for _ in late:
        await run(bench, running)
        (running,) = await handed_out(bench)
        order.append(running.id)
    assert order == late[::-1]


async def test_five_thousand_due_jobs_of_one_tenant_hold_up_another_for_a_few_batches(bench: Bench) -> None:
    await submit(bench, "echo", "a", lease_ms=0)
    client: Any = bench.store.client
    ids = [new_id("job_") for _ in range(BACKLOG)]
    for first in range(0, BACKLOG, 500):
        await asyncio.gather(*(submit(bench, "echo", "a", lease_ms=0) for _ in ids[first : first + 500]))
    theirs, _ = await submit(bench, "echo", "b", lease_ms=0)
    await client.zincrby(bench.tag + "due", 1, f"b {theirs}")  # surely the last
    await asyncio.sleep(0.01)
    seen: list[Message] = []
    while not any(message.tenant == "b" for message in seen):
        batch = await handed_out(bench, limit=100)
        assert batch
        seen += batch
    assert len(seen) <= 400, "a fair share, not 5,000 jobs later"
    while batch := await handed_out(bench, limit=500):
        seen += batch
    assert len({message.id for message in seen}) == len(seen) == BACKLOG + 2


async def test_jobs_that_take_turns_are_due_still_and_no_call_hands_out_more_than_its_limit(bench: Bench) -> None:
    for number in range(30):
        await submit(bench, "echo", f"t{number % 10}", lease_ms=0)
    await asyncio.sleep(0.01)
    assert len(await handed_out(bench, limit=5)) == 5
    _, _, kind = await bench.submit(max_due=30)
    assert kind == "overloaded"
    assert (await bench.jobs.pressure("default")).size == 30
    for _ in range(5):
        await submit(bench, "echo", "u", lease_ms=0)
    await asyncio.sleep(0.01)
    assert len(await handed_out(bench, limit=5)) == 5
    while await handed_out(bench, limit=10):
        pass
    assert (await bench.jobs.pressure("default")).size == 35  # leased to whoever publishes them
    assert not await bench.store.client.exists(bench.tag + "crowded")


async def test_a_full_shard_and_a_full_tenant_are_told_when_to_come_back(bench: Bench) -> None:
    _, message = await submit(bench, "echo")
    assert message is not None
    await run(bench, message)
    await submit(bench, "echo")
    _, _, kind = await bench.submit(max_due=1)
    assert kind == "overloaded"
    _, _, kind = await bench.submit(max_open=1)
    assert kind == "quota"
    refusals = Refusals(bench.jobs, Settings(max_open_jobs=1, max_due=1))
    quota, full = await refusals.of("quota", "default", "echo"), await refusals.of("overloaded", "default", "echo")
    assert isinstance(quota, QuotaExceeded)
    assert isinstance(full, Overloaded)
    for error in (quota, full):
        # One too many, and one ended in the last ten seconds.
        assert error.retry_after is not None
        assert 10 <= error.retry_after <= 12.5
