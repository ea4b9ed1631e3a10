"""`echo`: gives back what it is given, slowly and with progress if asked, or fails as asked."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec

from consumers import Context, GiveUp, task
from consumers.examples.inputs import parse

_DEFAULT_STEPS = 10


class EchoInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The input of `echo`.

    Attributes:
        value: comes back as the result.
        seconds: how long it takes, 0 to 1200.
        steps: progress reports on the way, 0 to 10,000; by default ten when it takes any time.
        fail: true or a message fails the attempt, so the job is tried again; "permanent" fails for good.
    """

    value: Any = None
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1200)] = 0
    steps: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None
    fail: bool | Annotated[str, msgspec.Meta(max_length=500)] = False


class EchoFailed(Exception):
    """The failure that was asked for."""


@task("echo", timeout=1260, max_attempts=3)
async def echo(ctx: Context, job_input: object) -> object:
    """Return `value` after `seconds`; see `EchoInput`.

    Raises:
        GiveUp: the input is not valid, or a permanent failure was asked for.
        EchoFailed: a failure was asked for.
    """
    wanted = parse(job_input, EchoInput)
    steps = wanted.steps if wanted.steps is not None else _DEFAULT_STEPS * (wanted.seconds > 0)
    for step in range(1, steps + 1):
        await asyncio.sleep(wanted.seconds / steps)
        ctx.progress(step, steps, f"step {step} of {steps}")
    if steps == 0:
        await asyncio.sleep(wanted.seconds)
    if wanted.fail == "permanent":
        raise GiveUp("failed for good, as asked")
    if wanted.fail:
        raise EchoFailed("failed, as asked" if wanted.fail is True else wanted.fail)
    return wanted.value
