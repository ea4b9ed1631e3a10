"""What sagas do to the world, and what is told of their steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.consumers.support import Bench

Effects = list[Any]


def act(effects: Effects, name: str) -> Callable[[], str]:
    def do() -> str:
        effects.append(name)
        return f"{name} done"

    return do


def steps(job: dict[str, Any]) -> list[str]:
    return [f"{step['name']} {step['status']}" for step in job["steps"]]


async def step_events(bench: Bench, job_id: str) -> list[str]:
    """Of each job.step event, the step it is about."""
    found = []
    for event in await bench.log(job_id):
        if event["type"] == "job.step":
            status = {step["name"]: step["status"] for step in event["data"]["steps"]}
            found.append(f"{event['data']['step']} {status[event['data']['step']]}")
    return found
