"""Pause, caps and schedules of the whole product: real processes, over HTTP and the command line."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.stack import Stack, client
from tests.support.waiting import eventually

TASKS = """
import asyncio
from consumers import task

@task("flow.capped", max_running=2)
async def capped(ctx, job_input):
    ctx.progress(1)
    await asyncio.sleep(0.05)
    return "done"

@task("flow.tick", schedule="* * * * * *", schedule_input={"from": "schedule"}, max_attempts=1)
async def tick(ctx, job_input):
    return job_input
"""


async def submit(http: httpx.AsyncClient, type_: str) -> str:
    answer = await http.post("/v1/jobs", json={"type": type_})
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


async def statuses(http: httpx.AsyncClient, ids: list[str]) -> Counter[str]:
    return Counter([(await http.get(f"/v1/jobs/{job_id}")).json()["status"] for job_id in ids])


async def listed(http: httpx.AsyncClient, name: str) -> dict[str, Any]:
    items = (await http.get("/v1/task-types")).json()["items"]
    found: dict[str, Any] = next(item for item in items if item["type"] == name)
    return found


def command(product: Stack, *arguments: str) -> str:
    run = [sys.executable, "-m", "gateway", "jobs", *arguments]
    return subprocess.run(run, env=product.env, check=True, capture_output=True, text=True, timeout=60).stdout


def with_tasks(product: Stack, folder: Path) -> None:
    (folder / "flowtasks.py").write_text(TASKS)
    product.extra["PYTHONPATH"] = f"{Path.cwd()}:{folder}"
    product.worker(module="flowtasks")


async def test_a_type_is_paused_and_resumed_while_jobs_come(product: Stack, tmp_path: Path) -> None:
    with_tasks(product, tmp_path)
    _, url = product.gateway()
    async with client(url) as http:
        assert (await http.post("/v1/task-types/flow.capped/pause")).json() == {"type": "flow.capped", "paused": True}
        ids = [await submit(http, "flow.capped") for _ in range(6)]
        known = await listed(http, "flow.capped")
        assert (known["paused"], known["open"], known["waiting"], known["max_running"]) == (True, 6, 6, 2)
        assert set(known["queue_depth"]) == {"critical", "default", "bulk"}
        assert await statuses(http, ids) == {"accepted": 6}
        assert "flow.capped  pool default  paused  0 of 2 admitted  6 open  6 waiting" in command(product, "types")
        command(product, "resume", "flow.capped")

        async def all_done() -> bool:
            assert (await listed(http, "flow.capped"))["admitted"] <= 2
            return await statuses(http, ids) == {"succeeded": 6}

        await eventually(all_done, 30)
        assert (await http.post("/v1/task-types/nobody/pause")).status_code == 404
        weak = await http.post("/v1/keys", json={"name": "weak", "scopes": ["jobs:read", "jobs:write"]})
        async with client(url, weak.json()["key"]) as other:
            assert (await other.post("/v1/task-types/flow.capped/pause")).status_code == 403
            assert (await other.get("/v1/schedules")).status_code == 200


async def test_a_schedule_fires_and_its_jobs_run(product: Stack, tmp_path: Path) -> None:
    with_tasks(product, tmp_path)
    _, url = product.gateway()
    async with client(url) as http:

        async def ticked() -> list[dict[str, Any]]:
            jobs = (await http.get("/v1/jobs", params={"type": "flow.tick", "status": "succeeded"})).json()["items"]
            return jobs if len(jobs) >= 2 else []

        jobs = await eventually(ticked, 30)
        assert {job["result"]["from"] for job in jobs} == {"schedule"}
        (known,) = (await http.get("/v1/schedules")).json()["items"]
        assert (known["type"], known["timezone"], known["overlap"]) == ("flow.tick", "UTC", "skip")
        assert known["next_at"] > known["last_at"]
        assert known["last_job"].startswith("job_")
