"""Tasks for processes that are hostile, or look around."""

from __future__ import annotations

import os
import time
from typing import Any, cast

from consumers import Cancelled, Context, Retry, task
from consumers.child import ChildContext

AT_IMPORT = sorted(name for name in os.environ if name.startswith("GATEWAY_"))


class Later(Retry):
    """A task's own kind of retry."""


@task("hostile.look", processes=True)
def look(ctx: Context, job_input: Any) -> Any:
    del job_input
    now = sorted(name for name in os.environ if name.startswith("GATEWAY_"))
    return {"import": AT_IMPORT, "now": now, "settings": repr(ctx.settings), "allow": ctx.settings.webhook_allow}


@task("hostile.speak", processes=True)
def speak(ctx: Context, job_input: Any) -> None:
    """Say something that is not of the protocol; a pickle, for one."""
    cast("ChildContext", ctx)._pipe.send_bytes(job_input.encode("latin-1"))
    time.sleep(60)


@task("hostile.later", processes=True)
def later(ctx: Context, job_input: Any) -> None:
    del ctx, job_input
    raise Later("not now", after=7)


@task("hostile.big", processes=True)
def big(ctx: Context, job_input: Any) -> Any:
    return ctx.attach_sync("big.bin", b"x" * job_input, "application/octet-stream")["size"]


@task("stuck.thread", timeout=0.3, max_attempts=1)
def stuck_thread(ctx: Context, job_input: Any) -> None:
    del ctx, job_input
    while True:
        time.sleep(0.1)


@task("stuck.process", processes=True)
def stuck_process(ctx: Context, job_input: Any) -> None:
    """Wait to be asked to end."""
    del job_input
    while not ctx.cancelled:
        time.sleep(0.01)
    raise Cancelled("asked")
