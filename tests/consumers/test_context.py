"""What a task can do with its context, and from where."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.context import MAX_PROGRESS_MESSAGE, Cancelled, Context, progress_json
from gateway.errors import InvalidFields
from gateway.jobs.folder import FolderAttachments
from gateway.settings import Settings
from tests.consumers.support import Bench
from tests.support.messages import make_message
from tests.support.waiting import LIMIT

NUMBERS = st.integers(-(2**60), 2**60) | st.floats()


@pytest.fixture
async def ctx(tmp_path: Path) -> Context:
    return Context(
        make_message("p", attempt=2), 7, Settings(), FolderAttachments(str(tmp_path), Settings().max_attachment_bytes)
    )


@given(NUMBERS, st.none() | NUMBERS, st.none() | st.text(st.characters(codec=None), max_size=800))
def test_progress_is_json_and_its_fraction_within_bounds(done: float, total: float | None, message: str | None) -> None:
    shown = json.loads(progress_json(done, total, message).encode())
    assert set(shown) == {"done", "total", "fraction", "message"}
    assert (shown["fraction"] is None) == (not total)
    assert shown["fraction"] is None or 0 <= shown["fraction"] <= 1
    assert shown["message"] is None or len(shown["message"]) <= MAX_PROGRESS_MESSAGE


@pytest.mark.parametrize(
    ("done", "total", "fraction"), [(0, 10, 0), (5, 10, 0.5), (15, 10, 1), (-1, 10, 0), (3, None, None), (3, 0, None)]
)
def test_the_fraction_of_a_progress(done: float, total: float | None, fraction: float | None) -> None:
    assert json.loads(progress_json(done, total, None))["fraction"] == fraction


async def test_a_context_tells_what_it_is_about(ctx: Context) -> None:
    message = make_message("p")
    assert ctx.job_id.startswith("job_")
    assert (ctx.type, ctx.tenant, ctx.run, ctx.attempt, ctx.max_attempts) == (message.type, "default", 1, 2, 7)
    assert not ctx.cancelled


async def test_the_newest_progress_is_taken_once(ctx: Context) -> None:
    assert ctx.take_progress() is None
    told: list[bool] = []
    ctx.on_progress(lambda: told.append(True))
    for done in range(5):
        ctx.progress(done, 10)
    assert len(told) == 5
    taken = ctx.take_progress()
    assert taken is not None
    assert json.loads(taken)["done"] == 4
    assert ctx.take_progress() is None


async def test_progress_from_threads_wakes_the_loop(ctx: Context) -> None:
    news = asyncio.Event()
    ctx.on_progress(news.set)
    await asyncio.gather(*(asyncio.to_thread(_count, ctx, start) for start in range(0, 4000, 500)))
    async with asyncio.timeout(LIMIT):
        await news.wait()
    taken = ctx.take_progress()
    assert taken is not None
    assert json.loads(taken)["done"] % 500 == 499  # somebody's last


def _count(ctx: Context, start: int) -> None:
    for done in range(start, start + 500):
        ctx.progress(done, 4000)


async def test_who_reports_for_a_lost_job_is_told(ctx: Context) -> None:
    ctx.cancelled = True
    with pytest.raises(Cancelled):
        ctx.progress(1)
    with pytest.raises(Cancelled):
        await asyncio.to_thread(ctx.progress, 1)
    assert ctx.take_progress() is None


async def test_an_attachment_from_a_task_and_from_a_thread(ctx: Context, tmp_path: Path) -> None:
    async def blocks() -> AsyncIterator[bytes]:
        yield b"a,b\n"
        yield b"1,2\n"

    attached = await ctx.attach("table.csv", blocks(), "text/csv")
    assert attached == {
        "name": "table.csv",
        "size": 8,
        "type": "text/csv",
        "url": f"/v1/jobs/{ctx.job_id}/attachments/table.csv",
    }
    again = await asyncio.to_thread(ctx.attach_sync, "other.txt", b"x", "text/plain")
    assert again["size"] == 1
    folder = tmp_path / ctx.tenant / ctx.job_id
    assert (folder / "table.csv").read_bytes() == b"a,b\n1,2\n"
    assert (folder / "other.txt").read_bytes() == b"x"


async def test_an_attachment_with_a_bad_name_is_refused_in_a_thread_too(ctx: Context) -> None:
    with pytest.raises(InvalidFields):
        await asyncio.to_thread(ctx.attach_sync, "../x", b"", "text/plain")


@pytest.mark.parametrize(
    "call",
    [
        lambda ctx: ctx.attach_sync("a.txt", b"x", "text/plain"),
        lambda ctx: ctx.once_sync("a", str),
        lambda ctx: ctx.publish_sync("a", "a.b"),
        lambda ctx: ctx.step_sync("a", int),
        lambda ctx: ctx.spawn_sync("echo"),
        lambda ctx: ctx.gather_sync("job_1"),
        lambda ctx: ctx.lock("a").__enter__(),
        lambda ctx: ctx.breaker("a").__enter__(),
    ],
)
async def test_what_would_block_the_loop_is_refused_in_an_async_task(
    bench: Bench, call: Callable[[Context], Any]
) -> None:
    async def wrong(ctx: Context, _: Any) -> None:
        call(ctx)

    async with bench.working(bench.task("wrong", wrong)):
        job = await bench.until(await bench.submit("wrong"), "failed")
    assert (job["error"]["type"], job["attempt"]) == ("GiveUp", 1)
    assert job["error"]["message"].startswith("in an async task use `await`")


@pytest.mark.parametrize(
    "call",
    [
        lambda ctx: ctx.attach("a.txt", b"x", "text/plain"),
        lambda ctx: ctx.once("a", nothing),
        lambda ctx: ctx.publish("a", "a.b"),
        lambda ctx: ctx.step("a", int),
        lambda ctx: ctx.spawn("echo"),
        lambda ctx: ctx.gather("job_1"),
        lambda ctx: ctx.lock("a").__aenter__(),
        lambda ctx: ctx.breaker("a").__aenter__(),
    ],
)
async def test_async_methods_are_refused_in_a_loop_of_the_tasks_own(
    bench: Bench, call: Callable[[Context], Coroutine[Any, Any, Any]]
) -> None:
    def wrong(ctx: Context, _: Any) -> None:
        asyncio.run(call(ctx))

    async with bench.working(bench.task("wrong", wrong)):
        job = await bench.until(await bench.submit("wrong"), "failed")
    assert (job["error"]["type"], job["attempt"]) == ("GiveUp", 1)
    assert job["error"]["message"].startswith("in a thread use `with`")


async def nothing(key: str) -> None:
    del key
