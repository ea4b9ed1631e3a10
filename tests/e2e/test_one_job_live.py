"""One job, end to end, live: HTTP → RabbitMQ → worker → Redis → SSE, WebSocket and polling."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from tests.e2e.clients import Event, read_sse, socket, together, token
from tests.e2e.stack import Stack, client
from tests.support.waiting import eventually

ECHO = {"type": "echo", "input": {"value": {"list": []}, "seconds": 2, "steps": 8}, "owner": "ann"}


def ended(event: Event) -> bool:
    return event["type"] in {"job.succeeded", "job.failed"}


def in_the_middle(event: Event) -> bool:
    return bool(event["type"] == "job.progress" and event["data"]["progress"]["done"] >= 3)


async def log_of(url: str, job_id: str) -> list[Event]:
    async with client(url) as http:
        found = (await http.get(f"/v1/jobs/{job_id}/events")).json()["events"]
    return [item["event"] for item in found]


async def submit(url: str, body: dict[str, Any] | None = None, **headers: str) -> str:
    async with client(url) as http:
        response = await http.post("/v1/jobs", json=body or ECHO, headers=headers)
    assert response.status_code == 202, response.text
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    return str(job["id"])


async def sse_over_two(first: str, second: str) -> list[Event]:
    """Read the user's channel, break off in the middle, go on at another gateway."""
    before, cursor = await read_sse(first, ["user:ann"], token("ann"), in_the_middle)
    after, _ = await read_sse(second, ["user:ann"], token("ann"), ended, cursor)
    return before + after


async def websocket_over_two(first: str, second: str) -> list[Event]:
    """Read the same over WebSocket, with `recover` at the other gateway."""
    async with socket(first, token("ann")) as opened:
        reply = await opened.call(subscribe={"channel": "user:ann"})
        at = reply["subscribe"]
        before = await opened.publications(lambda pub: in_the_middle(pub["data"]))
    async with socket(second, token("ann")) as opened:
        asked = {"channel": "user:ann", "recover": True, "epoch": at["epoch"], "offset": before[-1]["offset"]}
        result = (await opened.call(subscribe=asked))["subscribe"]
        assert result["recovered"] is True
        after = result.get("publications", [])
        if not any(ended(pub["data"]) for pub in after):
            after += await opened.publications(lambda pub: ended(pub["data"]))
    return [pub["data"] for pub in before + after]


async def test_sse_and_websocket_carry_the_same_events_over_two_gateways(product: Stack) -> None:
    (_, first), (_, second) = product.gateway(), product.gateway()
    product.worker()

    async def later() -> str:
        # Readers start at the present: give the job a delay they surely connect in.
        return await submit(first, {**ECHO, "delay": 1.5})

    by_sse, by_websocket, job_id = await together(
        sse_over_two(first, second), websocket_over_two(first, second), later()
    )
    log = await log_of(first, job_id)
    types = [event["type"] for event in log]
    assert types[:3] == ["job.scheduled", "job.queued", "job.started"]
    assert types[-1] == "job.succeeded"
    assert set(types[3:-1]) == {"job.progress"}
    assert len(types) > 6
    expected = [event["id"] for event in log]
    assert len(set(expected)) == len(expected)
    for seen in (by_sse, by_websocket):
        ids = [event["id"] for event in seen]
        assert ids == expected[-len(ids) :]
        assert len(ids) >= len(expected) - 1  # job.scheduled may come before the reader
    assert log[-1]["data"]["result"] == {"list": []}
    assert log[-1]["data"]["progress"]["fraction"] == 1


async def test_polling_and_waiting(product: Stack) -> None:
    _, url = product.gateway()
    product.worker()
    async with client(url) as http:
        done = await http.post("/v1/jobs", json={"type": "echo", "input": {"value": 7}}, headers={"Prefer": "wait=20"})
        assert done.status_code == 200
        assert done.json()["result"] == 7
        job_id = await submit(url, {"type": "echo", "input": {"value": 1, "seconds": 1, "steps": 3}})
        seen: list[str] = []
        tag = ""
        while not seen or seen[-1] != "succeeded":
            headers = {"Prefer": "wait=10", **({"If-None-Match": tag} if tag else {})}
            answer = await http.get(f"/v1/jobs/{job_id}", headers=headers)
            assert answer.status_code == 200
            assert answer.headers["etag"] != tag
            tag = answer.headers["etag"]
            seen.append(answer.json()["status"])
        same = await http.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": tag})
        assert same.status_code == 304
        assert (await http.get(f"/v1/jobs/{job_id}/result")).json() == 1
        full = (await http.get(f"/v1/jobs/{job_id}")).json()
        assert full["input"] == {"value": 1, "seconds": 1, "steps": 3}
        assert [attempt["error"] for attempt in full["attempts"]] == [None]


async def test_real_files(product: Stack) -> None:
    _, url = product.gateway()
    product.worker()
    async with client(url) as http:
        wait = {"Prefer": "wait=30"}
        report = await http.post("/v1/jobs", json={"type": "report.csv", "input": {"sample": True}}, headers=wait)
        assert report.json()["status"] == "succeeded", report.text
        assert report.json()["result"]["rows"] > 2000
        assert report.json()["progress"]["fraction"] == 1
        body = {"type": "image.thumbnails", "input": {"sample": True, "sizes": [64]}}
        thumbnails = await http.post("/v1/jobs", json=body, headers=wait)
        assert thumbnails.json()["status"] == "succeeded", thumbnails.text
        picture = await http.get(thumbnails.json()["result"]["thumbnails"][0]["url"])
        assert picture.headers["content-type"].startswith("image/")
        assert len(picture.content) > 100


async def test_failures_are_retried_and_then_dead(product: Stack) -> None:
    _, url = product.gateway()
    product.worker()
    body = {"type": "echo", "input": {"value": 1, "fail": "no luck"}, "max_attempts": 2}
    async with client(url) as http:
        answer = await http.post("/v1/jobs", json=body, headers={"Prefer": "wait=30"})
    job = answer.json()
    assert job["status"] == "failed"
    assert job["error"]["message"] == "no luck"
    assert [attempt["attempt"] for attempt in job["attempts"]] == [1, 2]
    types = [event["type"] for event in await log_of(url, job["id"])]
    assert types == [
        "job.queued",
        "job.started",
        "job.retrying",
        "job.queued",
        "job.started",
        "job.failed",
    ]


async def test_cancel_and_run_again(product: Stack) -> None:
    _, url = product.gateway()
    product.worker()
    body = {"type": "echo", "input": {"value": 5, "seconds": 4, "steps": 20}}
    async with client(url) as http:
        job_id = await submit(url, body)
        await eventually(lambda: started(http, job_id))
        asked = await http.post(f"/v1/jobs/{job_id}/cancel")
        assert (asked.status_code, asked.json()["status"]) == (202, "cancelling")
        waited = await http.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=10", "If-None-Match": '"0"'})
        assert waited.status_code == 200
        await eventually(lambda: is_in(http, job_id, "cancelled"))
        assert (await http.post(f"/v1/jobs/{job_id}/cancel")).status_code == 409
        again = await http.post(f"/v1/jobs/{job_id}/retry")
        assert (again.status_code, again.json()["run"]) == (202, 2)
        assert (await http.post(f"/v1/jobs/{job_id}/retry")).status_code == 409
        await eventually(lambda: is_in(http, job_id, "succeeded"))
    types = [event["type"] for event in await log_of(url, job_id)]
    assert [name for name in types if name != "job.progress"] == [
        *("job.queued", "job.started", "job.cancelling", "job.cancelled"),
        *("job.queued", "job.started", "job.succeeded"),
    ]


async def is_in(http: httpx.AsyncClient, job_id: str, status: str) -> bool:
    return bool((await http.get(f"/v1/jobs/{job_id}")).json()["status"] == status)


async def started(http: httpx.AsyncClient, job_id: str) -> bool:
    return await is_in(http, job_id, "running")


async def test_idempotency_key(product: Stack) -> None:
    _, url = product.gateway()
    product.worker()
    async with client(url) as http:
        key = {"Idempotency-Key": '"order-17"'}
        first = await http.post("/v1/jobs", json=ECHO, headers=key)
        again = await http.post("/v1/jobs", json=ECHO, headers=key)
        other = await http.post("/v1/jobs", json={**ECHO, "owner": "bob"}, headers=key)
    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 422)
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert other.json()["type"].endswith("idempotency-mismatch")


async def test_a_thousand_in_one_batch(product: Stack) -> None:
    _, url = product.gateway()
    product.worker("--concurrency", "50")
    jobs: list[dict[str, Any]] = [{"type": "echo", "input": {"value": n}} for n in range(999)]
    async with client(url) as http:
        answer = await http.post("/v1/jobs/batch", json={"jobs": [*jobs, {"type": "nobody"}]})
        answers = answer.json()["jobs"]
        assert [item["status"] for item in answers] == [202] * 999 + [422]
        assert answers[-1]["problem"]["errors"][0]["pointer"] == "/type"
        for n in (0, 500, 998):
            async with asyncio.timeout(60):
                while True:
                    job = (await http.get(f"/v1/jobs/{answers[n]['job']['id']}", headers={"Prefer": "wait=5"})).json()
                    if job["status"] == "succeeded":
                        break
            assert job["result"] == n
        listed = (await http.get("/v1/jobs", params={"type": "echo", "limit": 100})).json()
        assert len(listed["items"]) == 100
        assert listed["next_cursor"]
