"""Bounded reads from the store: however many readers ask at once, Redis sees a few at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from gateway.errors import StoreUnavailable
from gateway.events import Position
from gateway.fanout.stream import StreamSpec
from gateway.fanout.topic import Topic
from gateway.store.channels import ChannelStore, History, Replay

T = TypeVar("T")

_TRIES = 3


class Reads:
    """`known(spec, sequence)` is told when a stream's topics are complete from a sequence on."""

    def __init__(self, channels: ChannelStore, limit: int, known: Callable[[StreamSpec, int], None]) -> None:
        self._channels = channels
        self._turn = asyncio.Semaphore(limit)
        self._known = known

    async def history(self, topic: Topic, since: Position | None, limit: int) -> History:
        """Read a topic's history; raises StoreUnavailable."""
        return await self.bounded(
            partial(self._channels.history, topic.tenant, topic.channel, since=since, limit=limit)
        )

    async def head(self, spec: StreamSpec) -> tuple[str, int]:
        """Read where the tenant stands (generation, sequence); raises StoreUnavailable."""
        generation, sequence = await self.bounded(partial(self._channels.head, spec.tenant))
        self._known(spec, sequence)
        return generation, sequence

    async def replay(self, spec: StreamSpec, generation: str, sequence: int, limit: int) -> Replay:
        """Read what a stream's channels got after a sequence; raises StoreUnavailable."""
        replay = await self.bounded(
            partial(
                self._channels.replay,
                spec.tenant,
                spec.channels,
                generation=generation,
                sequence=sequence,
                limit=limit,
            )
        )
        if replay.complete:
            self._known(spec, replay.sequence)
        return replay

    async def bounded(self, read: Callable[[], Awaitable[T]]) -> T:
        """Run any read in its turn; raises StoreUnavailable."""
        # A read may be repeated, and the first use of a connection that Redis has closed meanwhile fails.
        for attempt in range(1, _TRIES + 1):
            try:
                async with self._turn:
                    return await read()
            except StoreUnavailable:
                if attempt == _TRIES:
                    raise
            await asyncio.sleep(random.uniform(0.02, 0.1) * attempt)  # noqa: S311 - jitter
        raise StoreUnavailable  # not reached: the last try returns or raises
