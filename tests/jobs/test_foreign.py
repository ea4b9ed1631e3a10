"""Jobs another system runs: whatever is told, in whatever order, the log makes sense."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from gateway.errors import Conflict
from gateway.events import new_id
from gateway.jobs.foreign import Birth, Change, ForeignJobs, Named, Revocation, Seen
from gateway.jobs.model import EVENTS, TERMINAL, TERMINAL_EVENTS, TRANSITIONS
from gateway.settings import Settings
from tests.jobs.bench import TENANT, TRACE, Bench

BIRTH = Birth("c-1", "shop.add", "ann", ("orders",), '{"args":[1]}', 4, TRACE)
ERROR = '{"type":"ValueError","message":"no","retryable":true'
ONE = [Change("queued"), Change("running", by="h:1:1"), Change("succeeded", result="1")]
STATE_OF = {event: state for state, event in EVENTS.items()}


@pytest.fixture
def foreign(bench: Bench) -> ForeignJobs:
    return ForeignJobs(bench.store, Settings(), "celery", 3600)


async def see(foreign: ForeignJobs, job_id: str, *changes: Change) -> list[str]:
    return await foreign.observe(TENANT, [Seen(job_id, change, BIRTH) for change in changes])


async def log_of(bench: Bench, job_id: str) -> list[str]:
    return [type_.removeprefix("job.") for type_ in await bench.events(f"job:{job_id}")]


async def test_a_job_from_birth_to_end(bench: Bench, foreign: ForeignJobs) -> None:
    job_id = new_id("job_")
    progress = Change("progress", progress='{"done":1}')
    assert await see(foreign, job_id, *ONE[:2], progress, ONE[2]) == ["queued", "running", "running", "succeeded"]
    job = await bench.job(job_id)
    assert (job["status"], job["result"], job["pool"], job["owner"]) == ("succeeded", 1, "celery", "ann")
    assert (job["type"], job["max_attempts"], len(job["attempts"])) == ("shop.add", 4, 1)
    assert await log_of(bench, job_id) == ["queued", "started", "progress", "succeeded"]
    assert await bench.events("orders") == ["job.queued", "job.started", "job.progress", "job.succeeded"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([ONE[0], ONE[0]], ["queued"]),
        ([ONE[1], ONE[1]], ["queued", "started"]),
        ([ONE[2], *ONE], ["queued", "started", "succeeded"]),
        ([Change("progress", progress="{}"), ONE[1]], ["queued", "started", "progress"]),
        ([Change("expired"), *ONE], ["expired"]),
        ([*ONE[:2], Change("expired")], ["queued", "started", "cancelled"]),
        (
            [*ONE[:2], Change("requeued"), ONE[1]._replace(by="x")],
            ["queued", "started", "retrying", "queued", "started"],
        ),
        ([*ONE[:2], ONE[1]._replace(by="another")], ["queued", "started", "retrying", "queued", "started"]),
        ([Change("retrying", error=ERROR), Change("queued", 2)], ["queued", "started", "retrying", "queued"]),
        ([*ONE[:2], Change("queued", 2), Change("retrying", error=ERROR)], ["queued", "started", "retrying", "queued"]),
        (
            [*ONE[:2], Change("queued", 2), ONE[1]._replace(by="b"), Change("retrying", error=ERROR)],
            ["queued", "started", "retrying", "queued", "started"],
        ),
    ],
)
async def test_what_is_late_twice_or_missing(
    bench: Bench, foreign: ForeignJobs, changes: list[Change], expected: list[str]
) -> None:
    job_id = new_id("job_")
    await see(foreign, job_id, *changes)
    assert await log_of(bench, job_id) == expected


async def test_an_error_knows_its_attempt(bench: Bench, foreign: ForeignJobs) -> None:
    job_id = new_id("job_")
    again = [Change("queued", 2), Change("running", by="b")]
    await see(foreign, job_id, *ONE[:2], Change("retrying", error=ERROR), *again, Change("failed", error=ERROR))
    job = await bench.job(job_id)
    assert (job["error"]["attempt"], job["attempt"]) == (2, 2)
    assert [attempt["error"]["attempt"] for attempt in job["attempts"]] == [1, 2]


async def test_a_large_result_is_fetched_apart(bench: Bench, foreign: ForeignJobs) -> None:
    job_id, large = new_id("job_"), json.dumps("x" * 20_000)
    await see(foreign, job_id, Change("succeeded", result=large))
    job = await bench.job(job_id)
    assert (job["result"], job["result_url"]) == (None, f"/v1/jobs/{job_id}/result")
    found = await bench.jobs.result(TENANT, job_id)
    assert found is not None
    assert found.json == large.encode()


async def test_a_job_nobody_introduced_is_not_made(bench: Bench, foreign: ForeignJobs) -> None:
    job_id = new_id("job_")
    assert await foreign.observe(TENANT, [Seen(job_id, ONE[1])]) == [""]
    assert await bench.jobs.get(TENANT, job_id) is None


async def test_an_id_stands_for_one_job_for_ever(foreign: ForeignJobs) -> None:
    first, second = Named("acme", new_id("job_")), Named("other", new_id("job_"))
    assert await foreign.named([("t1", None)]) == [None]
    assert await foreign.named([("t1", first), ("t1", second)]) == [first, first]
    assert await foreign.named([("t1", None), ("t2", None)]) == [first, None]


async def test_silence_ends_a_job(bench: Bench) -> None:
    impatient = ForeignJobs(bench.store, Settings(), "celery", 0)
    for change in (ONE[0], ONE[1], Change("retrying", error=ERROR)):
        job_id = new_id("job_")
        await see(impatient, job_id, change)
        due = await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True)
        assert due.messages == []
        job = await bench.job(job_id)
        assert (job["status"], job["error"]["type"]) == ("failed", "Unheard")
    assert (await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True)).next_ms == -1


async def test_a_restart_of_redis_is_no_silence(bench: Bench, foreign: ForeignJobs) -> None:
    await bench.jobs.register({"echo": ("celery", 3, 60.0)})  # a pool that is named like the other system
    job_id = new_id("job_")
    await see(foreign, job_id, ONE[0])
    while await bench.jobs.recheck(bench.tag, delay=0):
        pass
    await bench.jobs.requeue(bench.tag, "celery")
    await bench.jobs.due(bench.tag, limit=10, lease=5, publish=True)
    assert (await bench.job(job_id))["status"] == "queued"


async def test_a_running_job_that_is_cancelled_here_is_to_be_revoked(bench: Bench, foreign: ForeignJobs) -> None:
    job_id = new_id("job_")
    await see(foreign, job_id, *ONE[:2])
    await bench.jobs.cancel(TENANT, job_id)
    owed = [Revocation(TENANT, job_id, "c-1")]
    assert await foreign.revocations() == owed
    assert await foreign.revocations() == owed
    assert await foreign.revocations(owed) == []
    await see(foreign, job_id, Change("cancelled"))
    assert (await bench.job(job_id))["status"] == "cancelled"
    with pytest.raises(Conflict, match="celery runs this job"):
        await bench.jobs.rerun(TENANT, job_id, lease=5, max_open=100)


STORIES = [
    *[Change("queued", attempt) for attempt in range(1, 4)],
    *[Change("running", by=by, worker='"w"') for by in ("a", "b")],
    Change("progress", progress='{"done":1}'),
    Change("retrying", error=ERROR),
    Change("requeued"),
    Change("cancelled"),
    Change("expired"),
    Change("failed", error=ERROR),
    Change("succeeded", result="1"),
]


@examples(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(told=st.lists(st.sampled_from(STORIES), min_size=1, max_size=12), cancel_at=st.integers(0, 20))
async def test_every_story_makes_sense(bench: Bench, foreign: ForeignJobs, told: list[Change], cancel_at: int) -> None:
    job_id = new_id("job_")
    states: list[str] = []
    for number, change in enumerate(told):
        states += await see(foreign, job_id, change)
        if number == cancel_at and states[-1] and states[-1] not in TERMINAL:
            await bench.jobs.cancel(TENANT, job_id)
    history = await bench.channels.history(TENANT, f"job:{job_id}", since=None, limit=-1)
    events = [json.loads(publication.event) for publication in history.publications]
    check_story(events)
    if not events:
        assert {change.state for change in told} == {"requeued"}
        assert await bench.jobs.get(TENANT, job_id) is None
        return
    job = await bench.job(job_id)
    assert job["status"] == events[-1]["data"]["status"]
    assert job["version"] == len(events)


def check_story(events: list[dict[str, Any]]) -> None:
    """Each state may follow the one before; there is at most one end, and nothing after it."""
    assert [event["data"]["version"] for event in events] == list(range(1, len(events) + 1))
    types = [event["type"] for event in events]
    assert all(type_ not in TERMINAL_EVENTS for type_ in types[:-1])
    state = "accepted"
    for type_ in types:
        if type_ != "job.progress":
            assert STATE_OF[type_] in TRANSITIONS[state], (state, type_)
            state = STATE_OF[type_]
