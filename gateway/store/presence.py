"""Who is on which channel, in Redis: one lease per node, whatever the number of its members.

A node writes its members below its own name. They count while the node's lease lasts: a node renews the lease
and nothing else, and when it dies all of its members vanish at once, without a word about each. Whoever renews
a lease next sweeps a few of the dead one's keys away.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

from gateway.store.redis import Script, Store

_PRELUDE = resources.files("gateway.store").joinpath("lua/presence_prelude.lua").read_text()
_LEASE = Script.load("gateway.store", "lua/presence_lease.lua", prelude=_PRELUDE)
_WRITE = Script.load("gateway.store", "lua/presence_write.lua", prelude=_PRELUDE)
_READ = Script.load("gateway.store", "lua/presence_read.lua", prelude=_PRELUDE)


class Change(NamedTuple):
    """Somebody has joined or left.

    Attributes:
        tenant: whose channel.
        channel: its name.
        stored: presence is kept for this member.
        told: the channel's subscribers are to hear of it.
        joined: or left.
        client: the client's id, unique.
        user: who it is.
        info: what others are told: compact JSON on one line.
    """

    tenant: str
    channel: str
    stored: bool
    told: bool
    joined: bool
    client: str
    user: str
    info: str


class Lease(NamedTuple):
    """A node's name, and whether it hides because it has not announced all of its members yet."""

    node: str
    hidden: bool


class Leased(NamedTuple):
    """What became of a lease: whether it (still) holds, the server's generation, and whether dead nodes wait."""

    held: bool
    generation: str
    sweep: bool


class Present(NamedTuple):
    """Who is on a channel: how many clients and users, and clients with their infos, as many as were asked for."""

    clients: int
    users: int
    members: dict[str, bytes]


class PresenceStore:
    """Every method raises StoreUnavailable when Redis is away."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def tag(self, tenant: str) -> str:
        """Return the shard a tenant's presence is kept on."""
        return self._store.tag(tenant)

    async def begin(self, shard: str, node: str, lease: float) -> Leased:
        """Begin a hidden lease of `lease` seconds."""
        return await self._lease(shard, node, lease, hidden=True, begin=True)

    async def show(self, shard: str, node: str, lease: float, old: str | None) -> Leased:
        """Make a hidden lease count, and its predecessor's no more, at the same moment."""
        return await self._lease(shard, node, lease, hidden=True, show=True, old=old)

    async def renew(self, shard: str, node: str, lease: float) -> Leased:
        """Extend a lease."""
        return await self._lease(shard, node, lease, hidden=False)

    async def end(self, shard: str, node: str, lease: float) -> None:
        """Give a lease back: the node's members are gone."""
        await self._lease(shard, node, -lease, hidden=False)

    async def _lease(self, shard: str, node: str, lease: float, **arguments: object) -> Leased:
        held, generation, sweep = await self._store.run(_LEASE, shard, node=node, lease=int(lease * 1000), **arguments)
        return Leased(bool(held), generation.decode(), bool(sweep))

    async def write(self, shard: str, lease: Lease, changes: Sequence[Change]) -> bool:
        """Write joins and leaves, all of this shard; False when the lease is lost and nothing was written."""
        written = await self._store.run(_WRITE, shard, node=lease.node, hidden=lease.hidden, changes=changes)
        return bool(written)

    async def read(self, tenant: str, channel: str, *, limit: int, size: int) -> Present:
        """Read who is on a channel: at most `limit` members in `size` bytes of JSON."""
        clients, users, flat = await self._store.run(
            _READ, self._store.tag(tenant), tenant=tenant, channel=channel, limit=limit, bytes=size
        )
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return Present(clients, users, {client.decode(): info for client, info in pairs})
