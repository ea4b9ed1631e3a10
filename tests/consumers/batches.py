"""A task that gets batches, and jobs for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from consumers import Batch
from consumers.registry import Task
from tests.consumers.support import Bench


def batched(bench: Bench, function: Callable[[Batch], Awaitable[None] | None], **changes: Any) -> Task:
    return bench.task("many", function, **{"batch": 10, "window": 2.0, **changes})


async def submit(bench: Bench, count: int) -> list[str]:
    return [await bench.submit("many", value=number) for number in range(count)]
