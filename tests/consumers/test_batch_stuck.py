"""Batches on a worker whose slots are held by threads that do not end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from consumers import Batch, threads
from consumers.worker import WorkerStuck
from tests.consumers.batches import batched, submit
from tests.consumers.support import Bench, background
from tests.support.waiting import LIMIT

SLOW = 60.0


async def test_a_batch_that_waits_for_a_slot_does_not_keep_a_stuck_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "STUCK_AFTER", 0.5)
    gate = threading.Event()

    def hang(batch: Batch) -> None:
        del batch
        gate.wait(SLOW)

    worker = bench.worker(batched(bench, hang, batch=1, timeout=0.2, max_attempts=1), concurrency=1)
    await bench.register("many", max_attempts=1, limit=0.2)

    async def run() -> None:
        with pytest.raises(WorkerStuck):
            await worker.run()

    async with background(run()):
        await bench.queue.declare(bench.pool)
        hung, waiting = await submit(bench, 2)
        await bench.until(hung, "failed")
        await asyncio.wait_for(worker.stopped(), LIMIT)
        assert (await bench.job(waiting))["status"] == "queued"
    gate.set()
