"""A bench on the shared Redis and a queue in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from consumers import outcome, undos
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
