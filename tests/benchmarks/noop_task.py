"""The job of the benchmarks beside Celery: nothing to do."""

from __future__ import annotations

from typing import Any

from consumers import Context, task


@task("noop")
async def noop(ctx: Context, job_input: Any) -> Any:
    """Return the input."""
    del ctx
    return job_input
