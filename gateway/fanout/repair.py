"""Keeping topics in step with the store: first reading, holes, lost feeds, quiet losses (DESIGN 4.3)."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import structlog

from gateway.errors import GatewayError
from gateway.events import Position
from gateway.fanout.topic import Topic
from gateway.store.channels import History

if TYPE_CHECKING:
    from gateway.fanout.hub import Hub

log = structlog.get_logger(__name__)

PAGE = 500  # publications per read of a hole
MAX_BACKOFF = 5.0
PATIENCE = 0.25  # seconds the feed may be behind a head we just read


class Repairer:
    """Reads what the feed did not bring, once per topic whatever the number of readers."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def need(self, topic: Topic) -> None:
        """Hold a topic until it is in step with the store again."""
        topic.holding = True
        if topic.syncing:
            topic.stale = True
            return
        topic.syncing = True
        self._hub.spawn(None, self._sync(topic))

    async def _sync(self, topic: Topic) -> None:
        attempt = 0
        try:
            while topic.holding and self._hub.has(topic):
                try:
                    await self._step(topic)
                    attempt = 0
                except GatewayError as error:
                    attempt += 1
                    log.warning("topic.repair_failed", error=error.code, attempt=attempt)
                    await asyncio.sleep(random.uniform(0.05, min(MAX_BACKOFF, 0.1 * 2**attempt)))  # noqa: S311 - jitter
        finally:
            topic.syncing = False
        topic.verified = self._hub.loop.time()
        self._hub.in_step(topic)

    async def _step(self, topic: Topic) -> None:
        """Read once; afterwards the topic holds only if there is more to read."""
        self._hub.counters.repairs += 1
        if topic.head < 0:
            history = await self._hub.reads.history(topic, None, 0)
            topic.begin(Position(history.epoch, history.offset))
        else:
            history = await self._hub.reads.history(topic, topic.position, PAGE)
            if not history.complete or history.epoch != topic.epoch:
                self._start_over(topic, history)
            elif self._fill(topic, history):
                return
        topic.release()

    def _start_over(self, topic: Topic, history: History) -> None:
        reason = "epoch" if history.epoch != topic.epoch else "history"
        log.warning("topic.lost", channel=topic.channel, reason=reason)
        topic.begin(Position(history.epoch, history.offset))
        self._hub.lose(topic, reason)

    def _fill(self, topic: Topic, history: History) -> bool:
        """Take a page in; True when the head is not reached yet."""
        found = history.publications
        more = len(found) >= PAGE
        if found:
            self._hub.counters.holes += 1
            self._hub.late(topic, found[0].sequence)
        topic.repair(found, None if more else history.offset)
        if more:
            self._hub.pump.deliver([topic])
        return more

    async def probe(self) -> None:
        """Look for ever whether quiet topics miss something."""
        hub = self._hub
        while True:
            await asyncio.sleep(min(1.0, hub.options.probe / 2))
            now = hub.loop.time()
            quiet = [
                topic
                for topic in hub.topics.values()
                if topic.users and not topic.holding and now - topic.verified >= hub.options.probe
            ]
            for start in range(0, len(quiet), hub.options.reads):
                async with asyncio.TaskGroup() as group:
                    for topic in quiet[start : start + hub.options.reads]:
                        group.create_task(self._probe(topic))

    async def _probe(self, topic: Topic) -> None:
        try:
            history = await self._hub.reads.history(topic, None, 0)
        except GatewayError:
            return  # the store is away: the next round asks again, and readiness tells
        seen = Position(history.epoch, history.offset)
        if not _has(topic, seen):
            await asyncio.sleep(PATIENCE)
        if topic.holding:
            return
        if _has(topic, seen):
            topic.verified = self._hub.loop.time()
        else:
            log.warning("topic.behind", channel=topic.channel, offset=topic.head, store=seen.offset)
            self.need(topic)
            self._hub.feed.doubt()


def _has(topic: Topic, seen: Position) -> bool:
    # A head below ours under the same epoch is a reading that was overtaken by the feed, or a store that lost
    # its memory without knowing; the next reading of the history tells them apart.
    return topic.epoch == seen.epoch and topic.head >= seen.offset
