"""A worker dies in the middle of a batch: real processes, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from tests.e2e.stack import ROOT_KEY, stack
from tests.support.servers import RabbitServer, RedisServer
from tests.support.waiting import eventually_sync


def test_a_worker_that_dies_in_a_batch_costs_each_unrecorded_job_one_attempt(
    redis_server: RedisServer, rabbit_server: RabbitServer, tmp_path: Path
) -> None:
    with stack(redis_server.url, rabbit_server.url, tmp_path) as product:
        _, url = product.gateway()
        worker = product.worker(module="tests.consumers.batch_tasks")
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {ROOT_KEY}"}) as http:
            answer = http.post("/v1/jobs/batch", json={"jobs": [{"type": "batch.half", "input": n} for n in range(20)]})
            ids = [item["job"]["id"] for item in answer.json()["jobs"]]

            def jobs() -> list[Any]:
                return [http.get(f"/v1/jobs/{job_id}").json() for job_id in ids]

            def statuses() -> list[str]:
                return sorted(job["status"] for job in jobs())

            eventually_sync(lambda: statuses() == ["running"] * 10 + ["succeeded"] * 10, 30)
            worker.kill()
            product.worker(module="tests.consumers.batch_tasks")
            eventually_sync(lambda: statuses() == ["succeeded"] * 20, 60)
            found = sorted((job["result"], job["attempt"]) for job in jobs())
            logs = [http.get(f"/v1/jobs/{job_id}/events").json()["events"] for job_id in ids]
    assert found == [("again", 2)] * 10 + [("first", 1)] * 10
    for log in logs:
        assert [entry["event"]["type"] for entry in log].count("job.succeeded") == 1
