"""Turns among classes: the pure choice, the semaphore, and a saturated worker whose starts are counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import Context
from consumers.turns import WEIGHTS, Shares, Turns
from gateway.jobs.model import PRIORITIES, Priority
from tests.consumers.support import Bench
from tests.support.waiting import eventually

TOTAL = sum(WEIGHTS.values())
waitings = st.sets(st.sampled_from(PRIORITIES), min_size=1)


@given(st.lists(waitings, max_size=50), st.integers(1, 300))
def test_under_saturation_each_class_gets_its_share_whatever_was_before(
    before: list[set[Priority]], number: int
) -> None:
    shares = Shares()
    for waiting in before:
        assert shares.pick(waiting) in waiting
    starts = Counter(shares.pick(PRIORITIES) for _ in range(number))
    for priority in PRIORITIES:
        assert abs(starts[priority] - number * WEIGHTS[priority] / TOTAL) <= 2


@given(st.lists(waitings, min_size=1, max_size=300))
def test_no_class_that_waits_is_passed_over_for_long(waiting: list[set[Priority]]) -> None:
    shares = Shares()
    chosen = [shares.pick(some) for some in waiting]
    for priority in PRIORITIES:
        passed = 0
        for some, start in zip(waiting, chosen, strict=True):
            passed = 0 if start == priority or priority not in some else passed + 1
            assert passed <= TOTAL / WEIGHTS[priority] + 1


def test_urgent_work_that_comes_is_next() -> None:
    shares = Shares()
    for _ in range(50):
        shares.pick({"bulk"})
    assert shares.pick({"bulk", "critical"}) == "critical"


async def test_a_cancelled_waiter_loses_no_slot() -> None:
    turns = Turns(1)
    await turns.acquire("bulk")
    waiting: dict[str, asyncio.Task[None]] = {}
    async with asyncio.TaskGroup() as group:
        for name, priority in (("first", "default"), ("second", "default"), ("third", "bulk")):
            waiting[name] = group.create_task(turns.acquire(priority))  # type: ignore[arg-type] # they are classes
        await asyncio.sleep(0)
        waiting["first"].cancel()
        turns.release()
        waiting["second"].cancel()  # just when it has been given one
        await asyncio.wait(waiting.values())
    assert waiting["third"].done()
    assert not waiting["third"].cancelled()
    turns.release()
    await turns.acquire("bulk")


@pytest.mark.parametrize("urgent", [True, False])
async def test_a_saturated_worker_starts_every_class(bench: Bench, *, urgent: bool) -> None:
    starts: list[str] = []
    gate = asyncio.Event()

    async def counting(ctx: Context, job_input: Any) -> None:
        del ctx
        await gate.wait()
        starts.append(job_input)

    classes: list[Priority] = ["critical", "default", "bulk"] if urgent else ["default", "bulk"]
    await bench.register("counting")
    await bench.queue.declare(bench.pool)
    async with bench.working(bench.task("counting", counting), concurrency=2):
        for priority in ("default", "default"):  # they hold the slots until everybody is there
            await bench.submit("counting", value="first", priority=priority)
        for priority in classes[::-1] * 40:
            await bench.submit("counting", value=priority, priority=priority)
        gate.set()
        await eventually(lambda: len(starts) == 2 + 40 * len(classes), 30)
    counted = [start for start in starts if start != "first"]
    saturated = Counter(counted[:40])  # all classes had something waiting
    weight = sum(WEIGHTS[priority] for priority in classes)
    for priority in classes:
        assert saturated[priority] >= 40 * WEIGHTS[priority] / weight - 4
    bulk = [place for place, start in enumerate(counted[:40]) if start == "bulk"]
    assert all(after - before <= weight + 2 for before, after in pairwise(bulk))
