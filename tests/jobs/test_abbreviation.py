"""A job's log is stored abbreviated; what is read of it is what subscribers were told, byte for byte."""

from __future__ import annotations

import json
from typing import Any, cast

from gateway.events import Position
from tests.jobs.bench import TENANT, Bench


async def told(bench: Bench, channel: str, tenant: str = TENANT) -> list[bytes]:
    history = await bench.channels.history(tenant, channel, since=Position("", 0), limit=-1)
    assert history.complete
    return [publication.event for publication in history.publications]


async def end(bench: Bench, job_id: str, fence: int, op: int, **facts: Any) -> None:
    await bench.jobs.advance(TENANT, job_id, fence=fence, op=op, lease_ms=10_000, **facts)


async def test_what_is_read_is_what_was_told_whatever_a_job_goes_through(bench: Bench) -> None:
    """The channel `jobs` is stored in full, as it is published."""
    error = json.dumps(
        {"type": "Odd", "message": 'a "quoted" \\ line\nand \u0001 more', "attempt": 1, "retryable": True}
    )
    job_id, message, claim = await bench.running(ttl_ms=60_000, delay_ms=0)
    await end(bench, job_id, claim.fence, 1, to="progress", progress='{"done":1,"message":"\\u001e"}')
    await end(bench, job_id, claim.fence, 2, to="retrying", error=error, delay_ms=0)
    (again,) = (await bench.jobs.due(bench.tag, limit=10, lease=10, publish=True)).messages
    second = await bench.claim(again)
    assert not isinstance(second, str)
    await end(bench, job_id, second.fence, 1, to="succeeded", result='{"a":["x"]}', apart=True)
    rerun = await bench.jobs.rerun(TENANT, job_id, lease=10, max_open=10)
    assert rerun is not None
    assert rerun[1] is not None
    third = await bench.claim(rerun[1])
    assert not isinstance(third, str)
    await end(bench, job_id, third.fence, 1, to="failed", error=error)
    plain, _, fourth = await bench.running(owner=None, targets=[bench.channels.target("jobs")])
    await end(bench, plain, fourth.fence, 1, to="succeeded", result="[]", apart=False)
    everything = await told(bench, "jobs")
    logs = await told(bench, f"job:{job_id}") + await told(bench, f"job:{plain}")
    assert logs == everything
    events = [json.loads(event) for event in everything]
    assert [event["type"].removeprefix("job.") for event in events] == [
        *("queued", "started", "progress", "retrying", "queued", "started", "succeeded"),
        *("queued", "started", "failed", "queued", "started", "succeeded"),
    ]
    assert events[3]["data"]["error"] == json.loads(error)
    assert events[6]["data"]["result_url"] == f"/v1/jobs/{job_id}/result"
    assert events[9]["data"]["run"] == 2
    for event in events:
        assert list(event["data"]) == list(events[0]["data"])
        assert event["id"] == f"{event['subject']}-{event['data']['version']}"
        assert event["traceparent"] == message.traceparent
    found = await bench.jobs.get(TENANT, job_id, full=True)
    assert found is not None
    assert json.loads(found.full)["attempts"][0]["error"] == json.loads(error)
    assert json.loads(found.json) == events[9]["data"]


async def test_a_small_job_that_has_ended_is_small(bench: Bench) -> None:
    job_id, _, claim = await bench.running()
    await end(bench, job_id, claim.fence, 1, to="succeeded", result="1", apart=False)
    keys = (f"job:{TENANT}:{job_id}", f"log:{TENANT}:job:{job_id}", f"meta:{TENANT}:job:{job_id}")
    used = [cast("int", await bench.store.client.memory_usage(bench.tag + key)) for key in keys]
    assert sum(used) < 2600, used  # three events of over 1,000 bytes in a stream made for 4,096
    assert len(b"".join(await told(bench, f"job:{job_id}"))) > 3000
    assert await bench.store.client.exists(bench.tag + "copy") == 0
