"""A parent with children that double, fail or wait."""

from __future__ import annotations

import asyncio
from typing import Any

from consumers import Context, GiveUp
from consumers.registry import Task
from tests.consumers.support import TENANT, Bench


async def double(ctx: Context, job_input: Any) -> Any:
    """A child: doubles its input, or ends as it is told."""
    del ctx
    match job_input:
        case "fail":
            raise GiveUp("as told")
        case "wait":
            await asyncio.Event().wait()
    return job_input * 2


def family(bench: Bench, parent: Any, **changes: Any) -> list[Task]:
    return [bench.task("parent", parent, **changes), bench.task("child", double)]


async def the_children(bench: Bench) -> list[dict[str, Any]]:
    found, _ = await bench.jobs.find(TENANT, limit=100, type="child")
    return [await bench.job(id_of(job)) for job in found]  # within a millisecond in any order


def id_of(job: bytes) -> str:
    return job.split(b'"')[3].decode()
