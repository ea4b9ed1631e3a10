"""A task that takes its worker along, and one that does not."""

from __future__ import annotations

import os
import signal
from typing import Any

from consumers import Context, task


@task("deadly", max_attempts=9)
async def deadly(ctx: Context, job_input: Any) -> None:
    del ctx, job_input
    os.kill(os.getpid(), signal.SIGKILL)


@task("harmless")
async def harmless(ctx: Context, job_input: Any) -> str:
    del ctx, job_input
    return "done"
