"""What must not be left when everything has ended: in Redis, and at the broker."""

from __future__ import annotations

from collections.abc import Awaitable, Collection
from typing import cast

import aio_pika
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.jobs.model import PRIORITIES, STATES, TERMINAL
from gateway.jobs.topology import DEAD_LETTERS, queue_name

TAG = "{s00}:"
TENANT = "default"
KEPT = {"job", "log", "meta"}  # families of keys that bear a job's id for as long as the job is kept


async def open_jobs(redis: Redis, pool: str) -> dict[str, int]:
    """Return what says that something is still to be done, by its name; empty when nothing is."""
    try:
        return await _open_jobs(redis, pool)
    except RedisConnectionError:  # it was restarted meanwhile, or is being so
        return {"no answer": 1}


async def _open_jobs(redis: Redis, pool: str) -> dict[str, int]:
    counted = await cast("Awaitable[bytes | None]", redis.hget(f"{TAG}open", TENANT))
    counts = {
        "due": await redis.zcard(f"{TAG}due"),
        f"queued:{pool}": await redis.zcard(f"{TAG}queued:{pool}"),
        "open": int(counted or 0),
    }
    for state in STATES - TERMINAL:
        counts[state] = await redis.zcard(f"{TAG}ix:{TENANT}:s:{state}")
    return {name: count for name, count in counts.items() if count}


async def successes(redis: Redis) -> int:
    """Return how many jobs have succeeded."""
    try:
        return int(await redis.zcard(f"{TAG}ix:{TENANT}:s:succeeded"))
    except RedisConnectionError:
        return 0


async def stray_keys(redis: Redis, jobs: Collection[str]) -> list[str]:
    """Return keys about single jobs that no kept job explains: leases, locks, halves of what was lost."""
    found = []
    async for key in redis.scan_iter(match=f"{TAG}*job_*", count=1000):
        family, _, rest = key.decode().removeprefix(TAG).partition(":")
        job_id = "job_" + rest.partition("job_")[2].partition(":")[0]
        if family not in KEPT or job_id not in jobs:
            found.append(key.decode())
    return found


async def messages_left(amqp_url: str, pool: str) -> dict[str, int]:
    """Return how many messages the pool's queues and the dead letters hold, where any are; while nobody consumes."""
    left: dict[str, int] = {}
    async with await aio_pika.connect(amqp_url) as connection:
        for name in [queue_name(pool, priority) for priority in PRIORITIES] + [DEAD_LETTERS]:
            async with connection.channel() as amqp_channel:
                queue = await amqp_channel.declare_queue(name, passive=True)
                count = queue.declaration_result.message_count
                if count:
                    left[name] = count
    return left
