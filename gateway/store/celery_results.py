"""Celery's Redis result backend: whole results, and what `update_state` says while a task runs."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.errors import ConfigurationError
from gateway.jobs.foreign import Change

log = structlog.get_logger(__name__)

PREFIX: Final = "celery-task-meta-"
MAX_META: Final = 1024 * 1024  # bytes; of a larger result the event's cut repr is kept
MAX_FETCH: Final = 16 * 1024 * 1024  # bytes read at once; likewise
MAX_HELD: Final = 10_000  # tasks with progress or an end waiting to be recorded
MAX_HELD_BYTES: Final = 64 * 1024 * 1024  # of their results
REST: Final = 5.0  # seconds a backend that did not answer is not asked again: the events go on without it
NAP: Final = 1.0
PATIENCE: Final = 5.0


def affordable(ids: Sequence[str], sizes: Sequence[int]) -> Iterator[str]:
    """Choose what may be read at once: nothing over `MAX_META`, and `MAX_FETCH` bytes in all. Pure."""
    left = MAX_FETCH
    for task_id, size in zip(ids, sizes, strict=True):
        if 0 < size <= min(MAX_META, left):
            left -= size
            yield task_id


class Held:
    """The newest change of each task, for a while; bounded in number and bytes, the oldest goes first."""

    def __init__(self) -> None:
        self._changes: OrderedDict[str, tuple[float, Change]] = OrderedDict()
        self._bytes = 0

    def put(self, task_id: str, due: float, change: Change) -> None:
        """Hold a change until then; later calls must not name an earlier time."""
        self.drop(task_id)
        self._changes[task_id] = (due, change)
        self._bytes += len(change.result or "")
        while len(self._changes) > MAX_HELD or self._bytes > MAX_HELD_BYTES:
            self.drop(next(iter(self._changes)))

    def drop(self, task_id: str) -> Change | None:
        """Hold it no longer; returns it."""
        if task_id not in self._changes:
            return None
        _, change = self._changes.pop(task_id)
        self._bytes -= len(change.result or "")
        return change

    def due(self, now: float) -> Iterator[tuple[str, Change]]:
        """Take those whose time has come, the oldest first."""
        while self._changes:
            task_id, (when, change) = next(iter(self._changes.items()))
            if when > now:
                return
            self.drop(task_id)
            yield task_id, change


class Results:
    """Reads a result backend. What cannot be read is done without: it adds detail to what the events tell.

    Args:
        url: `redis://…`, as the application's `result_backend`.

    Raises:
        ConfigurationError: it is no such address.
    """

    def __init__(self, url: str) -> None:
        try:
            self._client = Redis.from_url(url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
            self._feed = Redis.from_url(
                url,
                socket_timeout=None,
                socket_connect_timeout=PATIENCE,
                socket_keepalive=True,
                health_check_interval=15,
            )
        except ValueError:  # whose text may hold a part of the password
            raise ConfigurationError("--results is not the address of a Redis") from None
        self._rests_until = 0.0

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
        await self._feed.aclose()

    async def fetch(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Return what is stored of tasks, by id, without what is too large."""
        loop = asyncio.get_running_loop()
        if not ids or loop.time() < self._rests_until:
            return {}
        try:
            return await self._fetch(ids)
        except (RedisError, OSError) as error:
            self._rests_until = loop.time() + REST
            log.warning("celery.results_unavailable", reason=str(error)[:200])
            return {}

    async def _fetch(self, ids: Sequence[str]) -> dict[str, bytes]:
        async with self._client.pipeline(transaction=False) as pipe:
            for task_id in ids:
                pipe.strlen(PREFIX + task_id)
            small = list(affordable(ids, await pipe.execute()))
        if not small:
            return {}
        found: list[Any] = await self._client.mget([PREFIX + task_id for task_id in small])
        return {task_id: meta for task_id, meta in zip(small, found, strict=True) if meta and len(meta) <= MAX_META}

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
