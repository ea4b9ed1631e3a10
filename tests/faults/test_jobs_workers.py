"""Workers die, disappear, and live in another hour: every accepted job ends once, and its effect happened once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.faults.jobs import job_scene

SHORT, LONG = pytest.mark.faults, [pytest.mark.faults_long, pytest.mark.timeout(540)]


@pytest.mark.parametrize(("count", "kills"), [pytest.param(250, 4, marks=SHORT), pytest.param(3000, 40, marks=LONG)])
async def test_workers_killed_in_the_middle(
    redis_url: str, amqp_url: str, redis: Redis, tmp_path: Path, count: int, kills: int
) -> None:
    del redis  # emptied
    async with job_scene(redis_url, amqp_url, tmp_path) as here:
        async with here.load.running(count, 80, seconds=0.2, failing=10):
            for number in range(kills):
                await here.load.reached((number + 1) * count // (kills + 1))
                await here.kill(random.choice(here.workers))
                await here.worker()
        await here.finish("workers killed")
