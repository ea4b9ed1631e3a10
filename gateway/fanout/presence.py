"""Members: subscriptions that others can see. Their joins and leaves go to the store in batches.

Every node keeps one lease per shard (see `gateway.store.presence`). When the lease is lost, or the server has
restarted and may have forgotten something, the node announces all of its members under a new name and then
lets that name take the old one's place: nobody sees half of them.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import structlog

from gateway.errors import GatewayError, StoreUnavailable
from gateway.fanout import bulletin
from gateway.fanout.connection import Connection, Subscription
from gateway.fanout.crowds import Crowds
from gateway.fanout.topic import Topic
from gateway.store.presence import Change, Lease, PresenceStore, Present

if TYPE_CHECKING:
    from gateway.fanout.hub import Hub

log = structlog.get_logger(__name__)

BATCH = 500  # changes per script: a script holds everyone else up while it runs
MAX_BACKOFF = 2.0
SWEEP = 0.05  # seconds between two looks after dead nodes while there is something to sweep
_PER_LEASE = 3  # renewals within one lease: two may be lost
_GOODBYE = 1.0


class Visible(NamedTuple):
    """How others see a subscription.

    Attributes:
        user: who it is.
        client: the connection's id.
        info: what others are told, as compact JSON.
        stored: it is listed in the channel's presence.
        told: its join and leave are pushed to those who want them.
        listens: it wants the others' joins and leaves.
    """

    user: str
    client: str
    info: bytes
    stored: bool
    told: bool
    listens: bool


class Member(Subscription):
    """A subscription that others can see. All others are spared its fields."""

    __slots__ = ("visible",)

    def __init__(self, connection: Connection, topic: Topic, offset: int, visible: Visible) -> None:
        super().__init__(connection, topic, offset)
        self.visible = visible
        if visible.listens:
            topic.listeners[self] = None

    def end(self) -> None:
        """See `Subscription`."""
        super().end()
        self.topic.listeners.pop(self, None)
        self.connection.hub.presence.left(self)

    def change(self, *, joined: bool) -> Change:
        """Return what the store is told."""
        topic, seen = self.topic, self.visible
        info = seen.info.decode()
        return Change(topic.tenant, topic.channel, seen.stored, seen.told, joined, seen.client, seen.user, info)


class _Pending(NamedTuple):
    change: Change
    fresh: bool  # nothing was waiting before it


_Key = tuple[Topic, str]


class _Shard:
    """One lease, and what has not been written under it."""

    __slots__ = ("due", "generation", "held", "members", "node", "pending", "tag", "wake")

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.node = self.generation = ""
        self.held = False
        self.due = 0.0
        self.members = 0
        self.pending: dict[_Key, _Pending] = {}
        self.wake = asyncio.Event()

    def put(self, key: _Key, change: Change) -> None:
        """Let a change wait for the next script; who comes and goes in between was never there."""
        before = self.pending.pop(key, None)
        if before is None or change.joined or not (before.fresh and before.change.joined):
            self.pending[key] = _Pending(change, before is None)
        self.wake.set()

    def knows(self, member: Member) -> bool:
        """Whether the store has been told of a member."""
        return member.visible.stored and (member.topic, member.visible.client) not in self.pending

    def take(self) -> dict[_Key, _Pending]:
        """Take as much as one script may write."""
        part: dict[_Key, _Pending] = {}
        size = 0
        for key, waiting in self.pending.items():
            size += len(waiting.change.info)
            if part and (len(part) == BATCH or size > bulletin.LIMIT):
                break
            part[key] = waiting
        for key in part:
            del self.pending[key]
        return part


class Presence:
    """Keeps the store's idea of this node's members true."""

    def __init__(self, hub: Hub, store: PresenceStore) -> None:
        self._hub = hub
        self._store = store
        self._shards: dict[str, _Shard] = {}
        self._crowds = Crowds(time.monotonic)

    def joined(self, member: Member) -> None:
        """Somebody has subscribed."""
        self._put(member, joined=True)

    def left(self, member: Member) -> None:
        """Somebody has unsubscribed or gone."""
        self._put(member, joined=False)

    async def read(self, tenant: str, channel: str, *, limit: int, size: int) -> Present:
        """Return who is on a channel, on all nodes; see `PresenceStore.read`. Of a crowd, who was there just now."""
        ask = partial(self._store.read, tenant, channel, limit=limit, size=size)
        return await self._crowds.read((tenant, channel, limit, size), partial(self._hub.reads.bounded, ask))

    def doubt(self) -> None:
        """The server may have restarted: look at once."""
        for shard in self._shards.values():
            shard.due = 0.0
            shard.wake.set()

    async def close(self) -> None:
        """Give the leases back, if that is possible: the members have gone."""
        for shard in self._shards.values():
            if not shard.node:
                continue
            with suppress(GatewayError, TimeoutError):  # then it ends by itself
                async with asyncio.timeout(_GOODBYE):
                    await self._store.end(shard.tag, shard.node, self._hub.options.lease)

    def _put(self, member: Member, *, joined: bool) -> None:
        tag = self._store.tag(member.topic.tenant)
        shard = self._shards.get(tag)
        if shard is None:
            shard = self._shards[tag] = _Shard(tag)
            self._hub.keep(partial(self._keep, shard))
        if member.visible.stored:
            shard.members += 1 if joined else -1
        shard.put((member.topic, member.visible.client), member.change(joined=joined))

    async def _keep(self, shard: _Shard) -> None:
        attempt = 0
        while True:
            shard.wake.clear()
            try:
                await self._serve(shard)
                attempt = 0
            except GatewayError as error:
                attempt += 1
                log.warning("presence.failed", error=error.code, attempt=attempt)
                await asyncio.sleep(random.uniform(0.05, min(MAX_BACKOFF, 0.1 * 2 ** min(attempt, 10))))  # noqa: S311 - jitter
                continue
            await self._rest(shard)

    async def _rest(self, shard: _Shard) -> None:
        """Wait for something to write, or for the lease to need renewal; without members it may end."""
        until = shard.due - self._hub.loop.time() if shard.members else None
        with suppress(TimeoutError):
            async with asyncio.timeout(until):
                await shard.wake.wait()

    async def _serve(self, shard: _Shard) -> None:
        """Renew what is due and write what waits, until there is nothing left to do."""
        while True:
            if shard.held and self._hub.loop.time() >= shard.due:
                await self._renew(shard)
            if not shard.held:
                await self._announce(shard)
            if not shard.pending:
                return
            part = shard.take()
            try:
                changes = [waiting.change for waiting in part.values()]
                shard.held = await self._write(shard, Lease(shard.node, hidden=False), changes)
            except StoreUnavailable:
                shard.pending = part | shard.pending  # what came meanwhile is newer
                raise
            if not shard.held:
                shard.pending = part | shard.pending

    async def _write(self, shard: _Shard, lease: Lease, changes: list[Change]) -> bool:
        """Write; what the store refuses is left out, so that it does not hold everyone else up for ever.

        Raises:
            StoreUnavailable: Redis is away.
        """
        try:
            return await self._store.write(shard.tag, lease, changes)
        except StoreUnavailable:
            raise
        except Exception:
            log.exception("presence.refused", shard=shard.tag, changes=len(changes))
            return True

    async def _renew(self, shard: _Shard) -> None:
        lease = self._hub.options.lease
        leased = await self._store.renew(shard.tag, shard.node, lease)
        # Another generation: the server has restarted, and may know less than it was told.
        shard.held = leased.held and leased.generation == shard.generation
        shard.due = self._hub.loop.time() + (SWEEP if leased.sweep else lease / _PER_LEASE)

    async def _announce(self, shard: _Shard) -> None:
        """Write all members under a new name, hidden until it is complete.

        Raises:
            StoreUnavailable: Redis is away, or restarted meanwhile.
        """
        lease = Lease(secrets.token_hex(8), hidden=True)
        seconds = self._hub.options.lease
        begun = await self._store.begin(shard.tag, lease.node, seconds)
        announced = 0
        for part in _parts(self._standing(shard)):
            if not await self._write(shard, lease, part):
                raise StoreUnavailable
            announced += len(part)
        shown = await self._store.show(shard.tag, lease.node, seconds, shard.node or None)
        if not shown.held:
            raise StoreUnavailable
        shard.node, shard.generation = lease.node, shown.generation
        if shown.generation != begun.generation:
            raise StoreUnavailable
        shard.held = True
        if announced:
            log.warning("presence.announced", members=announced)
        shard.due = self._hub.loop.time() + seconds / _PER_LEASE

    def _standing(self, shard: _Shard) -> Iterator[Change]:
        """Return who has been told of before: without a word, for who has left since, so that this can be told."""
        for waiting in list(shard.pending.values()):
            if waiting.change.stored and not waiting.change.joined:
                yield waiting.change._replace(joined=True, told=False)
        for topic in list(self._hub.topics.values()):
            if self._store.tag(topic.tenant) == shard.tag:
                for subscription in topic.subscriptions():
                    if isinstance(subscription, Member) and shard.knows(subscription):
                        yield subscription.change(joined=True)._replace(told=False)


def _parts(changes: Iterable[Change]) -> Iterator[list[Change]]:
    part: list[Change] = []
    size = 0
    for change in changes:
        part.append(change)
        size += len(change.info)
        if len(part) == BATCH or size > bulletin.LIMIT:
            yield part
            part, size = [], 0
    if part:
        yield part
