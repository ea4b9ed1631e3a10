"""kill -9 of real worker processes in the middle of a saga, of a child and of an undo, on a real broker."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, client
from tests.faults.test_kills import ENDS, has_status, job, log_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults


async def test_a_saga_goes_on_wherever_its_worker_is_killed(product: Stack, tmp_path: Path) -> None:
    product.extra["GATEWAY_LEASE"] = "1"
    _, url = product.gateway()
    worker = product.worker(module="tests.faults.saga_tasks")
    async with client(url) as http:
        answer = await http.post("/v1/jobs", json={"type": "deadly", "input": str(tmp_path)})
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    for _place in ("in the step", "in a child", "in an undo"):
        assert await asyncio.to_thread(worker.ended) == -signal.SIGKILL
        worker = product.worker(module="tests.faults.saga_tasks")
    await eventually(lambda: has_status(url, job_id, "failed"), 30)

    key = f"charge {job_id}:1:charge"
    effects = (tmp_path / "effects").read_text().splitlines()
    assert effects == ["reserve", key, key, "undo charge paid", "undo charge paid", "undo reserve None"]
    ended = await job(url, job_id)
    assert ended["error"]["message"] == "no courier"
    assert [step["status"] for step in ended["steps"]] == ["undone", "undone"]
    counted = Counter(event["type"] for event in await log_of(url, job_id))
    assert {name: count for name, count in counted.items() if name in ENDS} == {"job.failed": 1}
    async with client(url) as http:
        children = (await http.get("/v1/jobs?type=deadly.child")).json()["items"]
    assert [child["status"] for child in children] == ["succeeded"] * 2
    assert {child["parent"] for child in children} == {job_id}
