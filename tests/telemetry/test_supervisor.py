"""Background tasks that die are restarted and seen; dependencies are named."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import StoreUnavailable
from gateway.telemetry import supervisor as module
from gateway.telemetry.health import readiness
from gateway.telemetry.supervisor import Supervisor
from tests.support.waiting import eventually


async def test_a_task_that_dies_is_restarted_and_known_as_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_NAP", 0.01)
    monkeypatch.setattr(module, "STEADY", 0.2)
    starts = 0

    async def work() -> None:
        nonlocal starts
        starts += 1
        if starts < 3:
            raise RuntimeError("died")
        await asyncio.Event().wait()

    async with Supervisor() as supervisor:
        supervisor.keep("worker", work)
        await eventually(lambda: starts == 3)
        assert supervisor.down == {"worker"}
        await eventually(lambda: not supervisor.down)


async def test_leaving_ends_the_tasks() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with Supervisor() as supervisor:
        supervisor.keep("worker", work)
        await asyncio.sleep(0)
    assert ended.is_set()


async def test_readiness_names_every_dependency() -> None:
    async def well() -> str | None:
        return None

    async def away() -> str | None:
        raise StoreUnavailable

    async def not_connected() -> str | None:
        return "not connected"

    checks = {"redis": away, "broker": not_connected, "feed": well}
    said = await readiness(checks, frozenset({"redis", "feed"}))
    assert not said.ready
    assert said.checks == {"redis": "store-unavailable", "broker": "not connected", "feed": "ok"}
    assert (await readiness(checks, frozenset({"feed"}))).ready
