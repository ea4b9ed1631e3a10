"""Tasks in processes: what comes back, what a dead process becomes, and that a cancelled one is gone."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consumers import GiveUp, Retry
from consumers.context import Context
from consumers.outcome import ProcessDied, RemoteError
from consumers.process import run_in_process
from consumers.registry import load
from gateway.jobs.folder import FolderAttachments
from gateway.settings import Settings
from tests.consumers.support import SLOW, TASKS
from tests.support.messages import make_message
from tests.support.waiting import eventually


@pytest.fixture
async def ctx(tmp_path: Path) -> Context:
    return Context(
        make_message("p", type="process.double"),
        5,
        Settings(),
        FolderAttachments(str(tmp_path), Settings().max_attachment_bytes),
    )


async def run(ctx: Context, name: str, value: Any = None) -> Any:
    task = load(TASKS)[name]
    return msgspec.json.decode(await run_in_process(task, TASKS, ctx, json.dumps(value).encode()))


async def test_the_result_progress_and_attachments_come_through_the_pipe(ctx: Context, tmp_path: Path) -> None:
    result = await run(ctx, "process.double", 21)
    assert result["twice"] == 42
    assert result["pid"] != os.getpid()
    assert (result["job"], result["type"]) == (ctx.job_id, ctx.type)
    assert result["attached"]["url"] == f"/v1/jobs/{ctx.job_id}/attachments/half.txt"
    assert (tmp_path / ctx.tenant / ctx.job_id / "half.txt").read_bytes() == b"half"
    progress = ctx.take_progress()
    assert progress is not None
    assert json.loads(progress)["fraction"] == 0.5
    assert gone(result["pid"])
    assert multiprocessing.active_children() == []


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def test_a_large_result_comes_through_whole(ctx: Context) -> None:
    text = "x" * 3_000_000
    assert (await run(ctx, "process.double", text))["twice"] == text * 2


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [("give-up", GiveUp, "no way"), ("retry", Retry, "later"), ("value", RemoteError, "bad value")],
)
async def test_what_the_task_raises_is_raised(ctx: Context, how: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{message}$") as raised:
        await run(ctx, "process.raise", how)
    if isinstance(raised.value, Retry):
        assert raised.value.after == 7
    if isinstance(raised.value, RemoteError):
        assert type(raised.value).__name__ == "ValueError"


async def test_a_tasks_own_way_of_giving_up_is_one(ctx: Context) -> None:
    with pytest.raises(GiveUp, match="no way at all"):
        await run(ctx, "process.raise", "own-give-up")


async def test_a_result_that_is_not_json_is_given_up(ctx: Context) -> None:
    with pytest.raises(GiveUp, match="not JSON"):
        await run(ctx, "process.not-json")


@pytest.mark.parametrize(("how", "code"), [("exit", 7), ("kill", -9)])
async def test_a_process_that_dies_is_an_error(ctx: Context, how: str, code: int) -> None:
    with pytest.raises(ProcessDied, match=f"ended with code {code}$"):
        await run(ctx, "process.raise", how)


async def test_an_attachment_that_is_refused_is_told_to_the_task(ctx: Context) -> None:
    with pytest.raises(GiveUp, match="not valid"):
        await run(ctx, "process.attach", "../x")


async def test_cancelling_ends_the_process(ctx: Context) -> None:
    running = asyncio.ensure_future(run(ctx, "process.stuck"))
    progress = await eventually(ctx.take_progress, SLOW)
    assert progress is not None
    pid = int(json.loads(progress)["message"])
    assert not gone(pid)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gone(pid)
    assert multiprocessing.active_children() == []
