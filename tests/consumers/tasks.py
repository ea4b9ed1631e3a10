"""Tasks that run in processes of their own, which import this module again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from consumers import Context, GiveUp, Retry, Uncertain, task


class Hopeless(GiveUp):
    """A task's own kind of giving up."""


@task("process.double", processes=True)
def double(ctx: Context, job_input: Any) -> Any:
    ctx.progress(1, 2, "half way")
    attached = ctx.attach_sync("half.txt", b"half", "text/plain")
    return {"twice": job_input * 2, "pid": os.getpid(), "attached": attached, "job": ctx.job_id, "type": ctx.type}


@task("process.raise", processes=True)
def fail(ctx: Context, job_input: Any) -> None:
    del ctx
    match job_input:
        case "give-up":
            raise GiveUp("no way")
        case "own-give-up":
            raise Hopeless("no way at all")
        case "retry":
            raise Retry("later", after=7)
        case "value":
            raise ValueError("bad value")
        case "exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)


@task("process.not-json", processes=True)
def not_json(ctx: Context, job_input: Any) -> object:
    del ctx, job_input
    return object()


@task("process.attach", processes=True)
def attach(ctx: Context, job_input: Any) -> Any:
    return ctx.attach_sync(job_input, b"data", "text/plain")


@task("process.stuck", processes=True)
def stuck(ctx: Context, job_input: Any) -> None:
    """Tell the process' id and never end."""
    del job_input
    ctx.progress(0, None, str(os.getpid()))
    while True:
        time.sleep(60)


@task("process.step", processes=True)
def step(ctx: Context, job_input: Any) -> None:
    del job_input
    ctx.step_sync("a", lambda: None)


@task("process.polite", processes=True)
def polite(ctx: Context, job_input: Any) -> None:
    """Tell the process' id; tidy up when cancelled, and say that it was."""
    ctx.progress(0, None, str(os.getpid()))
    while not ctx.cancelled:
        time.sleep(0.01)
    Path(job_input).touch()
    raise GiveUp("cancelled")


@task("process.helpers", processes=True, max_attempts=2, retry_on=(OSError,))
def helpers(ctx: Context, job_input: Any) -> Any:
    """Use every helper over the pipe; the first attempt ends in an error worth another one."""

    def effect(key: str) -> Any:
        ctx.progress(1, None, key)
        return {"key": key, "attempt": ctx.attempt}

    done = ctx.once_sync("mail", effect)
    with ctx.breaker(job_input["breaker"]), ctx.lock("l") as fence:
        if ctx.attempt == 1:
            raise ConnectionError("the first time")
    return {"done": done, "fence": fence, "key": ctx.idempotency_key}


@task("process.meets", processes=True, max_attempts=1)
def meets(ctx: Context, job_input: Any) -> Any:
    """Meet what the test has prepared."""
    match job_input:
        case "open":
            with ctx.breaker("crm"):
                return "passed"
        case "busy":
            with ctx.lock("l"):
                return "taken"
        case "uncertain":
            try:
                return ctx.once_sync("mail", lambda _: "sent")
            except Uncertain:
                ctx.progress(1, None, "caught")
                raise
        case "bad name":
            return ctx.once_sync("a b", lambda _: "sent")
        case "hang":
            with ctx.breaker("hangs", failures=1), ctx.lock("l"):
                time.sleep(600)
    raise KeyError("not worth another attempt")


def _tell(ctx: Context, job_input: Any) -> str:
    return ctx.publish_sync(ctx.type, "a.b", job_input, event_id=f"{ctx.idempotency_key}-told")


task("publish.thread")(_tell)


@task("publish.process", processes=True)
def publish_in_process(ctx: Context, job_input: Any) -> str:
    return _tell(ctx, job_input)
