"""Hostile tasks in processes: what they can see, and what they cannot do to the worker."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import pickle
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consumers import GiveUp, Retry
from consumers.context import Cancelled, Context
from consumers.outcome import ProcessDied
from consumers.process import run_in_process
from consumers.registry import load
from gateway.jobs.folder import FolderAttachments
from gateway.settings import Settings
from tests.support.messages import make_message
from tests.support.waiting import eventually

HOSTILE = "tests.consumers.process_tasks"


@pytest.fixture
async def ctx(tmp_path: Path) -> Context:
    settings = Settings(redis_url="redis://:hunter2@x", root_key="gk_root_secret", webhook_allow=("10.0.0.0/8",))
    return Context(
        make_message("p", type="hostile"),
        5,
        settings,
        FolderAttachments(str(tmp_path), Settings().max_attachment_bytes),
    )


async def in_process(ctx: Context, name: str, value: Any = None) -> Any:
    body = json.dumps(value).encode()
    return msgspec.json.decode(await run_in_process(load(HOSTILE)[name], HOSTILE, ctx, body))


async def test_a_process_knows_no_secrets(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROOT_KEY", "TOKEN_SECRET", "REDIS_URL", "AMQP_URL", "RABBITMQ_API_URL", "CONFIG"):
        monkeypatch.setenv(f"GATEWAY_{name}", "secret")
    seen = await in_process(ctx, "hostile.look")
    assert seen["import"] == seen["now"] == []
    assert seen["allow"] == ["10.0.0.0/8"]
    assert "hunter2" not in seen["settings"]


class Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("the worker has unpickled what a process said",))


@pytest.mark.parametrize("said", [pickle.dumps(Exploit()), b"", b"\xc1", b"\x81\xa2is\xa4what"])
async def test_what_is_not_of_the_protocol_ends_the_process(ctx: Context, said: bytes) -> None:
    with pytest.raises(ProcessDied, match="cannot be read"):
        await in_process(ctx, "hostile.speak", said.decode("latin-1"))
    assert multiprocessing.active_children() == []


async def test_a_subclass_of_retry_is_one(ctx: Context) -> None:
    with pytest.raises(Retry, match="not now") as raised:
        await in_process(ctx, "hostile.later")
    assert (raised.value.after, type(raised.value).__name__) == (7, "Later")


async def test_attachments_of_the_largest_size_pass_and_no_larger(ctx: Context) -> None:
    limit = ctx.settings.max_attachment_bytes
    assert await in_process(ctx, "hostile.big", limit) == limit
    with pytest.raises(GiveUp, match="at most"):
        await in_process(ctx, "hostile.big", limit + 1)


@pytest.mark.parametrize("pause", [0.0, 0.003, 0.02])
async def test_a_process_cancelled_while_it_starts_is_gone(ctx: Context, pause: float) -> None:
    running = asyncio.create_task(in_process(ctx, "hostile.look"))
    await asyncio.sleep(pause)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await eventually(lambda: not multiprocessing.active_children())
    await eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "task-run"])


@pytest.mark.parametrize("pause", [0.0, 0.003, 0.05])
async def test_a_process_asked_to_end_while_it_starts_ends(ctx: Context, pause: float) -> None:
    running = asyncio.create_task(in_process(ctx, "stuck.process"))
    await asyncio.sleep(pause)
    ctx.cancel()
    with pytest.raises((Cancelled, ProcessDied)):
        await asyncio.wait_for(running, 20)
    await eventually(lambda: not multiprocessing.active_children())
