"""Channels: publish, history, replay (DESIGN 4.1). One round trip and one script each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gateway.errors import BodyTooLarge
from gateway.events import Draft, Position, Publication, namespace, parse_entry
from gateway.settings import Settings
from gateway.store.merge import merge_by_sequence
from gateway.store.redis import Script, Store
from gateway.store.shards import live_channel

_PUBLISH = Script.load("gateway.store", "lua/publish.lua")
_HISTORY = Script.load("gateway.store", "lua/history.lua")
_REPLAY = Script.load("gateway.store", "lua/replay.lua")
_HEAD = Script.load("gateway.store", "lua/head.lua")
_NODE_LEASE = Script.load("gateway.store", "lua/node_lease.lua")
_TELL = Script.load("gateway.store", "lua/tell.lua")
_NODES = "{nodes}:"  # the tag of what gateway processes tell each other

PAGE = 1000  # publications per script: a script holds everyone else up while it runs
BATCH = 100  # events per script, for the same reason
BATCH_BYTES = 4 * 1024 * 1024  # written per script: an event counts once per channel
MAX_BYTES = 64 * 1024 * 1024  # written per call


class Outgoing(NamedTuple):
    """An event and where it goes.

    Attributes:
        event: the event.
        channels: their names.
        key: conflation key.
        info: the publishing client as JSON.
        dedupe: repeated within five minutes it gets the positions it already has: known by its id, or by this text.
    """

    event: Draft
    channels: Sequence[str]
    key: str = ""
    info: bytes = b""
    dedupe: bool | str = False


class History(NamedTuple):
    """Part of a channel's past.

    Attributes:
        epoch: the channel's present epoch.
        offset: the channel's head when it was read.
        publications: ascending by offset (descending when asked in reverse).
        complete: False when the history does not reach back to the asked position or the epoch is another.
    """

    epoch: str
    offset: int
    publications: list[Publication]
    complete: bool


class Replay(NamedTuple):
    """What a set of channels got after a sequence.

    Attributes:
        generation: the server's present generation.
        sequence: the tenant's head when it was read: everything up to it is in `publications`, or `more`.
        publications: (channel, publication) ascending by sequence, one per event.
        complete: False when continuity could not be proven for every channel.
        more: the limit was reached; read on from the last one's sequence.
    """

    generation: str
    sequence: int
    publications: list[tuple[str, Publication]]
    complete: bool
    more: bool


class ChannelStore:
    """The channels of all tenants."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    @property
    def store(self) -> Store:
        """The Redis the channels are in."""
        return self._store

    def target(self, channel: str) -> tuple[str, int, int]:
        """Return what the recorder needs of a channel: name, history size, history lifetime in ms."""
        rules = self._settings.rules(namespace(channel))
        return channel, rules.history_size, int(rules.history_ttl * 1000)

    @staticmethod
    def node_channel(node: str) -> bytes:
        """Return the pub/sub channel on which one gateway process hears what is meant for it."""
        return (_NODES + node).encode()

    async def live(self, node: str, lease: float) -> None:
        """Say that a gateway process lives, for `lease` seconds; raises StoreUnavailable."""
        await self._store.run(_NODE_LEASE, _NODES, node=node, lease=int(lease * 1000))

    async def tell(self, node: str, payload: str) -> bool:
        """Say something to one gateway process; False when there is no such process. Raises StoreUnavailable."""
        return bool(await self._store.run(_TELL, _NODES, node=node, payload=payload))

    async def publish(
        self,
        tenant: str,
        channels: Sequence[str],
        event: Draft,
        *,
        key: str = "",
        info: bytes = b"",
        dedupe: bool = False,
    ) -> list[Position]:
        """Record one event; returns its position in each channel.

        With `dedupe` an event id seen within five minutes returns the positions it already has.
        """
        return (await self.publish_many(tenant, [Outgoing(event, channels, key, info, dedupe)]))[0]

    async def publish_many(self, tenant: str, events: Sequence[Outgoing]) -> list[list[Position]]:
        """Record events in order; returns per event its position in each of its channels.

        Raises:
            BodyTooLarge: together they would write more than 64 MiB.
        """
        if sum(map(cost, events)) > MAX_BYTES:
            raise BodyTooLarge(f"These events would write over {MAX_BYTES} bytes: an event counts once per channel")
        positions: list[list[Position]] = []
        for part in _batches(events):
            flat = await self._store.run(
                _PUBLISH, self._store.tag(tenant), tenant=tenant, events=[self._pack(item) for item in part]
            )
            pairs = iter(zip(flat[::2], flat[1::2], strict=True))
            positions += [[_position(next(pairs)) for _ in item.channels] for item in part]
        return positions

    def _pack(self, item: Outgoing) -> dict[str, Any]:
        event = item.event
        return {
            "type": event.type,
            "head": event.head,
            "tail": event.tail,
            "key": item.key or None,
            "info": item.info.decode() or None,
            "id": (event.id if item.dedupe is True else item.dedupe) or None,
            "channels": [self.target(channel) for channel in item.channels],
        }

    async def position(self, tenant: str, channel: str) -> Position:
        """Return the channel's head."""
        history = await self.history(tenant, channel, since=None, limit=0)
        return Position(history.epoch, history.offset)

    async def history(
        self, tenant: str, channel: str, *, since: Position | None, limit: int, reverse: bool = False
    ) -> History:
        """Read a channel's past.

        Args:
            tenant: whose channel.
            channel: its name.
            since: read after this position (before it in reverse); an empty epoch matches any.
            limit: at most so many publications; 0 only the position, -1 all.
            reverse: newest first.
        """
        first = await self._page(tenant, channel, since, PAGE if limit < 0 else min(limit, PAGE), reverse=reverse)
        found = first.publications
        while len(found) % PAGE == 0 and found and (limit < 0 or len(found) < limit):
            after = Position(first.epoch, found[-1].offset)
            size = PAGE if limit < 0 else min(limit - len(found), PAGE)
            page = await self._page(tenant, channel, after, size, reverse=reverse)
            if not page.complete:
                return page
            if not page.publications:
                break
            found += page.publications
        return first

    async def _page(self, tenant: str, channel: str, since: Position | None, limit: int, *, reverse: bool) -> History:
        epoch, offset, complete, flat = await self._store.run(
            _HISTORY,
            self._store.tag(tenant),
            tenant=tenant,
            channel=channel,
            epoch=since.epoch if since else "",
            offset=since.offset if since else None,
            limit=limit,
            reverse=reverse,
        )
        text = epoch.decode()
        return History(text, offset, _publications(text, flat), bool(complete))

    async def replay(
        self, tenant: str, channels: Sequence[str], *, generation: str, sequence: int, limit: int = 500
    ) -> Replay:
        """Read what several channels got after a sequence, at one moment, merged."""
        now, head, complete, *parts = await self._store.run(
            _REPLAY,
            self._store.tag(tenant),
            tenant=tenant,
            channels=list(channels),
            generation=generation,
            sequence=sequence,
            limit=limit,
        )
        if not complete:
            return Replay(now.decode(), head, [], complete=False, more=False)
        lists = [_publications(epoch.decode(), flat) for epoch, flat in parts]
        merged, more = merge_by_sequence(dict(zip(channels, lists, strict=True)), limit)
        return Replay(now.decode(), head, merged, complete=True, more=more)

    async def head(self, tenant: str) -> tuple[str, int]:
        """Return the present generation and the tenant's sequence."""
        generation, sequence = await self._store.run(_HEAD, self._store.tag(tenant), tenant=tenant)
        return generation.decode(), sequence

    def live_channel(self, tenant: str, channel: str) -> str:
        """Return the Redis pub/sub channel on which publications appear (see `events.parse_live`)."""
        return live_channel(self._store.tag(tenant), tenant, channel)


def cost(item: Outgoing) -> int:
    """Return how many bytes recording an event writes: it counts once per channel."""
    return (len(item.event.head) + len(item.event.tail)) * len(item.channels)


def _batches(events: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """Cut events into parts of bounded number and cost."""
    part: list[Outgoing] = []
    size = 0
    for item in events:
        if part and (len(part) == BATCH or size + cost(item) > BATCH_BYTES):
            yield part
            part, size = [], 0
        part.append(item)
        size += cost(item)
    if part:
        yield part


def _position(pair: tuple[bytes, int]) -> Position:
    return Position(pair[0].decode(), pair[1])


def _publications(epoch: str, flat: list[bytes]) -> list[Publication]:
    return [parse_entry(epoch, entry_id, entry) for entry_id, entry in zip(flat[::2], flat[1::2], strict=True)]
