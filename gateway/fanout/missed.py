"""What a subscriber missed, from the ring or, once for many who ask the same, from the history."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.events import Position
from gateway.fanout import resume
from gateway.fanout.topic import Topic
from gateway.fanout.wire import Entry

if TYPE_CHECKING:
    from gateway.fanout.hub import Hub

_TRIES = 5  # a topic that breaks this often while it is read is told as not recoverable


async def missed(hub: Hub, topic: Topic, asked: Position | None, room: int) -> resume.Reply:
    """Find what a subscribe reply says. When it returns, nothing has happened since: join at once.

    Args:
        hub: reads the history.
        topic: attached.
        asked: where the client says it stands, or None when it does not want to recover.
        room: bytes of publications the reply may hold; the rest follows as pushes.

    Raises:
        StoreUnavailable: the topic is not in step with the store in time, or the history cannot be read.
    """
    for _ in range(_TRIES):
        await hub.in_time([topic])
        if asked is None or not _plausible(topic, asked):
            return resume.answer(asked, topic.position, None, all_there=True)
        entries = topic.after(asked.offset)
        if entries is not None:
            return resume.answer(asked, topic.position, entries, all_there=True, room=room)
        epoch = topic.epoch
        reply = await _read(hub, topic, asked, room)
        if reply is not None and not topic.holding and topic.epoch == epoch:
            return reply
    return resume.answer(asked, topic.position, None, all_there=True)


def _plausible(topic: Topic, asked: Position) -> bool:
    return asked.offset <= topic.head and asked.epoch in ("", topic.epoch)


async def _read(hub: Hub, topic: Topic, asked: Position, room: int) -> resume.Reply | None:
    """Read the history after a position; None when the ring has it by now."""
    if topic.backfill is None:
        topic.backfill = asyncio.Lock()
    async with topic.backfill:
        if topic.after(asked.offset) is not None:
            return None
        history = await hub.reads.history(topic, asked, resume.MAX_IN_REPLY)
        if not history.complete:
            return resume.answer(asked, topic.position, None, all_there=True)
        page = [Entry(publication) for publication in history.publications]
        last = page[-1].publication.offset if page else asked.offset
        reached = len(page) < resume.MAX_IN_REPLY
        if not reached and last < topic.floor:
            return resume.answer(asked, topic.position, page, all_there=False, room=room)
        topic.prepend(page, asked.offset)
        return _with_ring(topic, asked, page, max(last, history.offset) if reached else last, room)


def _with_ring(topic: Topic, asked: Position, page: Sequence[Entry], upto: int, room: int) -> resume.Reply:
    # The history may be ahead of the feed; what it brings again is skipped by offset.
    tail = topic.after(max(upto, topic.floor)) or ()
    head = Position(topic.epoch, max(topic.head, upto))
    return resume.answer(asked, head, [*page, *tail], all_there=True, room=room)
