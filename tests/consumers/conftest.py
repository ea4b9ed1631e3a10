"""A bench on the shared Redis and a queue in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from consumers import Context, outcome, undo, undos
from tests.consumers.sagas import Effects
from tests.consumers.support import Bench, WatchedQueue, open_bench


@pytest.fixture
async def local_queue() -> AsyncIterator[WatchedQueue]:
    async with WatchedQueue() as queue:
        yield queue


@pytest.fixture
async def bench(
    redis_url: str, redis: Redis, local_queue: WatchedQueue, pool: str, tmp_path: Path
) -> AsyncIterator[Bench]:
    del redis  # emptied
    async with open_bench(redis_url, local_queue, pool, attachments_dir=str(tmp_path)) as bench:
        yield bench


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry is due at once."""
    monkeypatch.setattr(outcome, "BACKOFF_BASE", 0.0)


@pytest.fixture
def own_undos(monkeypatch: pytest.MonkeyPatch) -> None:
    """The undos of one test are not those of another."""
    monkeypatch.setattr(undos, "_undos", {})


@pytest.fixture
def effects(own_undos: None) -> Effects:
    """What was done to the world; undos of the names undo-a, undo-b … add what they were given."""
    del own_undos
    done: Effects = []

    def make(name: str) -> Callable[..., Any]:
        async def take_back(ctx: Context, *given: Any) -> None:
            done.append((f"{name} of {ctx.undoing}", *given))

        take_back.__qualname__ = name
        return take_back

    for letter in "abc":
        undo(f"undo-{letter}")(make(f"undo-{letter}"))
    return done
