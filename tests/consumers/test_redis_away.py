"""Redis is away: workers start nothing, take no more than their prefetch, and go on by themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from consumers import Context
from consumers.worker import ahead
from gateway.jobs.rabbitmq import RabbitQueue
from tests.consumers.support import background, open_bench
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

JOBS = 30
CONCURRENCY = 2


async def test_nothing_is_started_without_redis_and_all_runs_when_it_is_back(
    own_redis: RedisServer, amqp_url: str, pool: str, tmp_path: Path
) -> None:
    started: list[int] = []

    async def noting(ctx: Context, job_input: Any) -> None:
        del ctx
        started.append(job_input)

    folder = str(tmp_path)
    async with (
        RabbitQueue(amqp_url) as queue,
        open_bench(own_redis.url, queue, pool, attachments_dir=folder) as bench,
    ):
        await queue.declare(pool)
        await bench.register("noting")
        ids = [await bench.submit("noting", value=number) for number in range(JOBS)]
        await asyncio.to_thread(own_redis.stop)
        worker = bench.worker(bench.task("noting", noting), concurrency=CONCURRENCY)
        async with background(worker.run(), bench.reaper().run()):

            async def left() -> int:
                return (await queue.depth(pool))["default"]

            async def prefetched() -> bool:
                return await left() == JOBS - CONCURRENCY - ahead(CONCURRENCY)

            await eventually(prefetched, 20)
            await asyncio.sleep(1)  # two looks at whether Redis is back
            assert await prefetched(), "the rest stays with the broker"
            assert started == []
            await asyncio.to_thread(own_redis.start)
            for job_id in ids:
                await bench.until(job_id, "succeeded", 30)
    assert sorted(started) == list(range(JOBS))
