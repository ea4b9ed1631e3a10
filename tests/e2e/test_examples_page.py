"""Every `submit` line of docs/examples.md, as it stands there, through `gateway dev`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from consumers.registry import load
from tests.e2e.clients import together
from tests.e2e.stack import client, stack

PAGE = (Path(__file__).parents[2] / "docs" / "examples.md").read_text()
BODIES: list[dict[str, Any]] = [
    json.loads(body) for body in re.findall(r"^submit '(.*?)'$", PAGE, re.MULTILINE | re.DOTALL)
]


def test_the_page_knows_every_example() -> None:
    named = set(re.findall(r"`([a-z]+(?:\.[a-z]+)?)`", PAGE))
    tasks = load("consumers.examples").values()
    ours = {task.name for task in tasks if task.function.__module__.startswith("consumers.examples.")}
    assert len(ours) >= 9
    assert ours - {"order.pack"} <= named


async def test_what_the_page_says_can_be_done(tmp_path: Path) -> None:
    with stack("", "", tmp_path) as product:
        _, url, key = product.dev(tmp_path / "data")
        async with client(url, key) as http:

            async def run(body: dict[str, Any]) -> dict[str, Any]:
                job = (await http.post("/v1/jobs", json=body)).raise_for_status().json()
                while job["finished_at"] is None:
                    answer = await http.get(job["links"]["self"], headers={"Prefer": "wait=20"})
                    job = answer.raise_for_status().json()
                return dict(job)

            jobs = await together(*map(run, BODIES))
            schedules = (await http.get("/v1/schedules")).raise_for_status().text
    assert len(jobs) == 12
    for body, job in zip(BODIES, jobs, strict=True):
        end = "failed" if "fail_at" in body["input"] else "succeeded"
        assert job["status"] == end, (body, job["error"])
    assert "sync.products" in schedules
    assert (tmp_path / "data" / "products.sqlite").exists()
