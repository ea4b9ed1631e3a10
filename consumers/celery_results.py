"""Celery's Redis result backend: whole results, and what `update_state` says while a task runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)

PREFIX: Final = "celery-task-meta-"
MAX_META: Final = 1024 * 1024  # bytes; of a larger result the event's cut repr is kept
NAP: Final = 1.0
PATIENCE: Final = 5.0


class Results:
    """Reads a result backend. What cannot be read is done without: it adds detail to what the events tell.

    Args:
        url: `redis://…`, as the application's `result_backend`.
    """

    def __init__(self, url: str) -> None:
        self._client = Redis.from_url(url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
        self._feed = Redis.from_url(
            url, socket_timeout=None, socket_connect_timeout=PATIENCE, socket_keepalive=True, health_check_interval=15
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
        await self._feed.aclose()

    async def fetch(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Return what is stored of tasks, by id."""
        if not ids:
            return {}
        try:
            found: list[Any] = await self._client.mget([PREFIX + task_id for task_id in ids])
        except (RedisError, OSError) as error:
            log.warning("celery.results_unavailable", reason=str(error)[:200])
            return {}
        return {task_id: meta for task_id, meta in zip(ids, found, strict=True) if meta and len(meta) <= MAX_META}

    async def follow(self, on_message: Callable[[bytes], None]) -> None:
        """Give every state that is stored to `on_message`, for ever; what is stored while away is missed."""
        while True:
            try:
                async with self._feed.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.psubscribe(PREFIX + "*")
                    log.info("celery.following_results")
                    while True:
                        message = await pubsub.get_message(timeout=PATIENCE)
                        if message is not None and len(message["data"]) <= MAX_META:
                            on_message(message["data"])
            except (RedisError, OSError) as error:
                log.warning("celery.results_unavailable", reason=str(error)[:200])
                await asyncio.sleep(NAP)
