"""Real kills: a worker, a gateway, the broker, Redis. Afterwards everything accepted has ended exactly once."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clients import Event, read_sse, socket, token
from tests.e2e.stack import Stack, client, stack
from tests.support.servers import RabbitServer, RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults

ENDS = {"job.succeeded", "job.failed", "job.cancelled", "job.expired"}


async def submit(url: str, **body: object) -> str:
    async with client(url) as http:
        answer = await http.post("/v1/jobs", json={"type": "echo", **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def job(url: str, job_id: str) -> dict[str, Any]:
    async with client(url) as http:
        found: dict[str, Any] = (await http.get(f"/v1/jobs/{job_id}")).json()
    return found


async def log_of(url: str, job_id: str) -> list[Event]:
    async with client(url) as http:
        return [item["event"] for item in (await http.get(f"/v1/jobs/{job_id}/events")).json()["events"]]


async def has_status(url: str, job_id: str, status: str) -> bool:
    return bool((await job(url, job_id))["status"] == status)


async def all_succeeded_once(url: str, ids: list[str], limit: float) -> None:
    """Wait until every job has succeeded, and count its terminal events."""
    for job_id in ids:
        await eventually(lambda job_id=job_id: has_status(url, job_id, "succeeded"), limit)  # type: ignore[misc]
    for job_id in ids:
        counted = Counter(event["type"] for event in await log_of(url, job_id))
        assert {name: count for name, count in counted.items() if name in ENDS} == {"job.succeeded": 1}, job_id


async def test_a_killed_workers_job_is_finished_by_another(product: Stack) -> None:
    _, url = product.gateway()
    first = product.worker("--concurrency", "1")
    job_id = await submit(url, input={"value": "kept", "seconds": 3, "steps": 30})
    await eventually(lambda: has_status(url, job_id, "running"))
    first.kill()
    product.worker()
    await all_succeeded_once(url, [job_id], 30)
    done = await job(url, job_id)
    assert done["result"] == "kept"
    assert done["attempt"] == 2
    assert [attempt["error"] and attempt["error"]["type"] for attempt in done["attempts"]] == ["WorkerLost", None]


async def test_a_stopped_worker_gives_its_job_back_without_burning_the_attempt(product: Stack) -> None:
    _, url = product.gateway()
    first = product.worker("--grace", "0.2")
    job_id = await submit(url, input={"value": 1, "seconds": 3, "steps": 30})
    await eventually(lambda: has_status(url, job_id, "running"))
    assert first.stop() == 0
    product.worker()
    await all_succeeded_once(url, [job_id], 30)
    assert (await job(url, job_id))["attempt"] == 1


async def test_subscribers_of_a_killed_gateway_resume_on_another(product: Stack) -> None:
    (dying, first), (_, second) = product.gateway(), product.gateway()
    product.worker()
    seen: list[Event] = []
    cursor = ""
    async with socket(first, token("ann")) as opened:
        at = (await opened.call(subscribe={"channel": "user:ann"}))["subscribe"]
        job_id = await submit(second, owner="ann", input={"value": 1, "seconds": 3, "steps": 30})
        seen, cursor = await read_sse(
            first, [f"job:{job_id}"], token("ann"), lambda event: event["type"] == "job.progress"
        )
        before = await opened.publications(lambda pub: pub["data"]["type"] == "job.progress")
        dying.kill()
    after, _ = await read_sse(second, [f"job:{job_id}"], token("ann"), lambda event: event["type"] in ENDS, cursor)
    async with socket(second, token("ann")) as opened:
        asked = {"channel": "user:ann", "recover": True, "epoch": at["epoch"], "offset": before[-1]["offset"]}
        result = (await opened.call(subscribe=asked))["subscribe"]
    assert result["recovered"] is True
    expected = [event["id"] for event in await log_of(second, job_id)]
    by_sse = [event["id"] for event in seen + after]
    assert by_sse == expected[-len(by_sse) :]
    assert by_sse[-1] == expected[-1]
    assert [pub["data"]["id"] for pub in before + result["publications"]] == expected


async def is_ready(url: str) -> bool:
    async with client(url) as http:
        return (await http.get("/readyz")).status_code == 200


async def test_everything_missing_at_the_start_is_waited_for(tmp_path: Path) -> None:
    with RedisServer() as redis_server, RabbitServer() as rabbit_server:
        redis_server.stop()
        rabbit_server.stop()
        with stack(redis_server.url, rabbit_server.url, tmp_path) as product:
            _, url = product.gateway(ready=False)
            worker = product.run("consumers", "run", "consumers.examples")
            async with client(url) as http:
                assert (await http.get("/readyz")).json()["checks"]["redis"] != "ok"
                assert (await http.post("/v1/jobs", json={"type": "echo"})).status_code == 503
            redis_server.start()
            rabbit_server.start()
            await asyncio.to_thread(worker.wait_for, "worker.registered", 60)
            await eventually(lambda: is_ready(url), 30)
            await all_succeeded_once(url, [await submit(url, input={"value": 1})], 30)


async def test_gateway_dev_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    with stack("", "", tmp_path) as product:
        process, url, key = product.dev(tmp_path / "data")
        ids = []
        async with client(url, key) as http:
            for n in range(15):
                body = {"type": "echo", "input": {"value": n, "seconds": 2, "steps": 4}}
                ids.append((await http.post("/v1/jobs", json=body)).json()["id"])
        await eventually(lambda: dev_status(url, key, ids[-1], "running"))
        process.kill()
        _, url, again = product.dev(tmp_path / "data")
        assert again == key
        for job_id in ids:
            await eventually(lambda job_id=job_id: dev_status(url, key, job_id, "succeeded"), 60)  # type: ignore[misc]


async def dev_status(url: str, key: str, job_id: str, status: str) -> bool:
    async with client(url, key) as http:
        return bool((await http.get(f"/v1/jobs/{job_id}")).json()["status"] == status)
