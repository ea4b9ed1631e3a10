"""A batch task for a worker that is killed."""

from __future__ import annotations

import asyncio

from consumers import Batch, task


@task("batch.half", batch=20, window=2.0, max_attempts=3)
async def half(batch: Batch) -> None:
    """Settle every other job; those of a first attempt then wait for the worker's death."""
    first = [item for item in batch if item.ctx.attempt == 1]
    for item in first[::2]:
        item.succeed("first")
    if first:
        await asyncio.sleep(600)
    for item in batch:
        item.succeed("again")
