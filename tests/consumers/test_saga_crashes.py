"""A worker dies at every boundary there is: before each script it sends, and after, with the answer lost.

After each death another worker finishes the job: nothing is left in limbo, children exist once, everything done is
undone in reverse order, and the run has one end.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from consumers import Context, GiveUp, undo
from gateway.jobs import reaper
from gateway.jobs.store import JobStore
from gateway.store.redis import Script, Store
from tests.consumers.support import TENANT, Bench
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("no_backoff")


class Mortal(JobStore):
    """The store as a worker sees it that dies at its n-th script: before it has run, or after. Then it does nothing."""

    def __init__(self, store: Store, at: int, *, after: bool) -> None:
        super().__init__(store)
        self._left = at
        self._after = after
        self.died = asyncio.Event()

    async def run_script(self, script: Script, tenant: str, **arguments: object) -> Any:
        return await self._mortally(partial(super().run_script, script, tenant, **arguments))

    async def _gather(self, script: Script, tenant: str, **arguments: object) -> Any:
        return await self._mortally(partial(super()._gather, script, tenant, **arguments))

    async def _mortally(self, run: Callable[[], Awaitable[Any]]) -> Any:
        self._left -= 1
        if self._left == 0 and self._after:
            await run()
        if self._left <= 0:
            self.died.set()
            await asyncio.Event().wait()
        return await run()


class World:
    """What the tasks did to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def act(self, name: str) -> None:
        self.done.append(name)


@pytest.fixture
def world(own_undos: None, monkeypatch: pytest.MonkeyPatch) -> World:
    del own_undos
    monkeypatch.setattr(reaper, "LONGEST_NAP", 0.01)
    found = World()

    @undo("take-back")
    async def take_back(ctx: Context, result: Any) -> None:
        del result
        found.act(f"undo {ctx.undoing}")

    return found


@asynccontextmanager
async def workers(bench: Bench, store: JobStore, world: World, *, fails: bool) -> AsyncIterator[None]:
    async def order(ctx: Context, job_input: Any) -> Any:
        del job_input
        await ctx.step("reserve", lambda: world.act("reserve"), undo="take-back")
        children = [await ctx.spawn("parcel", number) for number in (1, 2)]
        weights = await ctx.gather(*children)
        await ctx.step("charge", lambda: world.act("charge"), undo="take-back")
        if fails:
            raise GiveUp("no courier")
        return sum(weights)

    async def parcel(ctx: Context, job_input: Any) -> Any:
        del ctx
        return job_input * 10

    healthy, bench.jobs = bench.jobs, store
    try:
        async with bench.working(bench.task("order", order), bench.task("parcel", parcel)):
            yield
    finally:
        bench.jobs = healthy


async def story(bench: Bench, world: World, at: int, *, after: bool, fails: bool) -> bool:
    """One job whose first worker dies at that script; returns whether it got so far."""
    world.done.clear()
    mortal = Mortal(bench.store, at, after=after)
    status = "failed" if fails else "succeeded"
    async with workers(bench, mortal, world, fails=fails):
        job_id = await bench.submit("order")

        async def over() -> bool:
            return mortal.died.is_set() or (await bench.job(job_id))["status"] == status

        await eventually(over)
    async with workers(bench, bench.jobs, world, fails=fails):
        if owed := await bench.due():
            await bench.make_due(*owed)  # the dead worker's leases have ended
        job = await bench.until(job_id, status)
        await check(bench, world, job, fails=fails)
    return mortal.died.is_set()


async def check(bench: Bench, world: World, job: dict[str, Any], *, fails: bool) -> None:
    counted = Counter(world.done)
    assert set(counted) == {"reserve", "charge", *(["undo reserve", "undo charge"] if fails else [])}
    assert sum(counted.values()) <= len(counted) + 1, "one death, one repetition at most"
    order = [name for number, name in enumerate(world.done) if name not in world.done[:number]]
    assert order == ["reserve", "charge", "undo charge", "undo reserve"][: len(order)]
    assert await bench.ends(job["id"]) == [f"job.{job['status']}"]
    if fails:
        assert job["error"]["message"] == "no courier"
        assert [step["status"] for step in job["steps"]] == ["undone", "undone"]
    else:
        assert job["result"] == 30
    children, _ = await bench.jobs.find(TENANT, limit=100, parent=job["id"])
    assert [json.loads(child)["status"] for child in children] == ["succeeded"] * 2
    assert await bench.due() == {}
    assert await bench.store.client.hget(bench.tag + "open", TENANT) == b"0"
    log = await bench.log(job["id"])
    assert log[-1]["data"] == {name: value for name, value in job.items() if name != "attempts"}
    assert [event["data"]["version"] for event in log] == list(range(2, len(log) + 2))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fails", [True, False])
async def test_a_worker_that_dies_at_any_script_leaves_nothing_in_limbo(
    bench: Bench, world: World, *, fails: bool, after: bool
) -> None:
    at = 1
    while await story(bench, world, at, after=after, fails=fails):
        at += 1
    assert at > 20, "every script of the life of the job and its children has been the last one"
