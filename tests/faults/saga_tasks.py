"""A saga that kills its own worker process, once at each of three places."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from consumers import Context, GiveUp, task, undo


def _effect(folder: str, name: str) -> None:
    with Path(folder, "effects").open("a") as file:
        file.write(name + "\n")


def _die_once(folder: str, place: str) -> None:
    mark = Path(folder, f"died-{place}")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@task("deadly", max_attempts=5)
async def deadly(ctx: Context, folder: str) -> None:
    def charge() -> str:
        _effect(folder, f"charge {ctx.step_key('charge')}")
        _die_once(folder, "in the step")
        return "paid"

    await ctx.step("reserve", lambda: _effect(folder, "reserve"), undo="deadly.undo", undo_input=folder)
    await ctx.step("charge", charge, undo="deadly.undo", undo_input=folder)
    await ctx.gather(await ctx.spawn("deadly.child", folder), await ctx.spawn("deadly.child", folder))
    raise GiveUp("no courier")


@task("deadly.child")
async def child(ctx: Context, folder: str) -> None:
    del ctx
    _die_once(folder, "in a child")


@undo("deadly.undo")
async def take_back(ctx: Context, result: Any, folder: str) -> None:
    _effect(folder, f"undo {ctx.undoing} {result}")
    _die_once(folder, "in an undo")
