"""The Celery bridge with a real, unchanged Celery application and its worker."""

from __future__ import annotations

import asyncio
import importlib
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.e2e.stack import Process, Stack, client, stack
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

APP = "tests.consumers.celery_app"
RULES = '{"shop.count": {"owner": "{0}", "channels": ["order:{order}"]}}'


class Shop(NamedTuple):
    """A running application beside our gateway and its bridge."""

    product: Stack
    url: str
    app: Any
    env: dict[str, str]

    def send(self, name: str, *args: object, **options: object) -> str:
        return str(self.app.send_task(name, args=args, **options).id)

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """A Celery worker, started as its users start it; events are off, as they are by default."""
        command = [sys.executable, "-m", "celery", "-A", APP, "worker", "-c", "2", "--without-gossip"]
        with subprocess.Popen(
            command, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            try:
                yield process
            finally:
                process.terminate()
                process.wait(30)


@pytest.fixture(scope="module")
def shop(amqp_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with RedisServer() as redis, pytest.MonkeyPatch.context() as patch:
        folder: Path = tmp_path_factory.mktemp("celery")
        results = redis.url.replace("/0", "/1")
        variables = {
            "CELERY_BROKER_URL": amqp_url,
            "CELERY_RESULT_BACKEND": results,
            "SHOP_QUEUE": f"shop-{secrets.token_hex(4)}",
        }
        for name, value in variables.items():
            patch.setenv(name, value)
        with stack(redis.url, amqp_url, folder, GATEWAY_CELERY=RULES) as product:
            start_bridge(product, amqp_url, results)
            _, url = product.gateway()
            app = importlib.import_module(APP).app
            shop = Shop(product, url, app, {**product.env, **variables})
            with shop.worker():
                app.control.inspect(timeout=1)
                yield shop
            app.close()


def start_bridge(product: Stack, broker: str, results: str) -> Process:
    bridge = product.run("consumers", "celery", "--broker", broker, "--results", results)
    bridge.wait_for("intake.consuming")
    return bridge


@pytest.fixture
async def http(shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    async with client(shop.url) as opened:
        # Until the bridge's word has reached the worker, tasks run unseen.
        sent: list[str] = []
        while not [task_id for task_id in sent if await events_of(opened, task_id)]:
            sent.append(await asyncio.to_thread(shop.send, "shop.add", 1, 1))
            await asyncio.sleep(0.5)
        yield opened


async def events_of(http: httpx.AsyncClient, task_id: str) -> list[dict[str, Any]]:
    answer = await http.get(f"/v1/channels/celery:{task_id}/history")
    return [item["event"] for item in answer.json().get("publications", [])]


async def job_of(http: httpx.AsyncClient, task_id: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The job of a task, once the condition holds: found on the channel that is named after the task."""

    async def found() -> dict[str, Any]:
        events = await events_of(http, task_id)
        return events[-1]["data"] if events and condition(events[-1]["data"]) else {}

    seen = await eventually(found, 60)
    job: dict[str, Any] = (await http.get(seen["links"]["self"])).json()
    return job


async def told(http: httpx.AsyncClient, job: dict[str, Any]) -> list[str]:
    events = (await http.get(job["links"]["events"])).json()["events"]
    return [item["event"]["type"] for item in events]


def ended(job: dict[str, Any]) -> bool:
    return bool(job["finished_at"])


async def test_a_result_is_whole_and_its_events_are_in_order(shop: Shop, http: httpx.AsyncClient) -> None:
    task_id = shop.send("shop.add", 2, 3)
    job = await job_of(http, task_id, ended)
    assert (job["status"], job["type"], job["pool"]) == ("succeeded", "shop.add", "celery")
    assert job["result"] == {"sum": 5, "text": "x" * 2000}
    assert job["input"] == {"args": [2, 3], "kwargs": {}}
    assert await told(http, job) == ["job.queued", "job.started", "job.succeeded"]
    assert [attempt["error"] for attempt in job["attempts"]] == [None]
    assert f"celery:{task_id}" in job["channels"]


async def test_progress_is_live_for_the_owner_and_the_channels_of_the_rule(shop: Shop, http: httpx.AsyncClient) -> None:
    seen: list[dict[str, Any]] = []
    async with http.stream("GET", "/v1/stream?channel=order:o1&channel=user:u1") as stream:
        lines = stream.aiter_lines()
        shop.send("shop.count", "u1", 4, kwargs={"order": "o1"})
        async for line in lines:
            if line.startswith("data: {") and '"job.' in line:
                event = json.loads(line.removeprefix("data: "))
                seen.append(event)
                if event["type"] == "job.succeeded":
                    break
    progress = [event["data"]["progress"] for event in seen if event["type"] == "job.progress"]
    assert len(progress) >= 2
    assert {item["total"] for item in progress} == {4}
    assert progress[-1]["message"].startswith("step ")
    assert seen[-1]["data"]["owner"] == "u1"
    assert [event["type"] for event in seen][:2] == ["job.queued", "job.started"]


async def test_a_failure_has_its_error(shop: Shop, http: httpx.AsyncClient) -> None:
    job = await job_of(http, shop.send("shop.fail", "no luck"), ended)
    assert job["status"] == "failed"
    assert job["error"] == {"type": "ValueError", "message": "no luck", "retryable": False, "attempt": 1}


async def test_retries_are_attempts(shop: Shop, http: httpx.AsyncClient) -> None:
    job = await job_of(http, shop.send("shop.flaky", 2), ended)
    assert (job["status"], job["attempt"], job["result"]) == ("succeeded", 3, 2)
    assert [attempt["attempt"] for attempt in job["attempts"]] == [1, 2, 3]
    assert job["attempts"][0]["error"]["message"] == "not yet"
    once = ["job.queued", "job.started", "job.retrying"]
    assert await told(http, job) == [*once, *once, "job.queued", "job.started", "job.succeeded"]


async def test_what_is_rejected_has_failed(shop: Shop, http: httpx.AsyncClient) -> None:
    job = await job_of(http, shop.send("shop.reject"), ended)
    assert job["status"] == "failed"
    assert job["error"]["type"].startswith("Reject")


async def test_a_task_that_is_revoked_there_is_cancelled_here(shop: Shop, http: httpx.AsyncClient) -> None:
    task_id = shop.send("shop.sleep", 60)
    await job_of(http, task_id, lambda job: job["status"] == "running")
    shop.app.control.revoke(task_id, terminate=True)
    job = await job_of(http, task_id, ended)
    assert job["status"] == "cancelled"


async def test_a_job_that_is_cancelled_here_is_revoked_there(shop: Shop, http: httpx.AsyncClient) -> None:
    task_id = shop.send("shop.sleep", 60)
    job = await job_of(http, task_id, lambda job: job["status"] == "running")
    answer = await http.post(f"/v1/jobs/{job['id']}/cancel")
    assert answer.json()["status"] == "cancelling"
    job = await job_of(http, task_id, ended)
    assert job["status"] == "cancelled"
    assert (await http.post(f"/v1/jobs/{job['id']}/retry")).status_code == 409


async def test_what_was_told_while_the_bridge_was_away_is_caught_up(shop: Shop, http: httpx.AsyncClient) -> None:
    for bridge in [process for process in shop.product.processes if "intake.consuming" in process.output]:
        bridge.kill()
    tasks = [shop.send("shop.add", number, 1) for number in range(20)]
    results = shop.env["CELERY_RESULT_BACKEND"]
    start_bridge(shop.product, shop.env["CELERY_BROKER_URL"], results)
    jobs = [await job_of(http, task_id, ended) for task_id in tasks]
    assert [job["result"]["sum"] for job in jobs] == [number + 1 for number in range(20)]
    assert {job["status"] for job in jobs} == {"succeeded"}
    assert len({job["id"] for job in jobs}) == 20
