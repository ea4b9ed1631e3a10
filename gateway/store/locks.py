"""Leased locks of a tenant, fenced: whoever holds one has a number larger than all before."""

from __future__ import annotations

from typing import NamedTuple

from gateway.store.redis import Script, Store

_LOCK = Script.load("gateway.store", "lua/lock.lua")


class Grip(NamedTuple):
    """A lock as its owner finds it: the fence, or 0 when it is another's for up to `left` seconds."""

    fence: int
    left: float


class Locks:
    """The locks of all tenants. Repeating any of these is safe."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def take(self, tenant: str, name: str, owner: str, ttl: float) -> Grip:
        """Take a lock that is free, for `ttl` seconds."""
        return await self._run(tenant, name, owner, "take", ttl)

    async def keep(self, tenant: str, name: str, owner: str, ttl: float) -> bool:
        """Extend the lease to `ttl` seconds from now; returns False when it is no longer the owner's."""
        return bool((await self._run(tenant, name, owner, "keep", ttl)).fence)

    async def free(self, tenant: str, name: str, owner: str) -> None:
        """Give it back, if it is the owner's."""
        await self._run(tenant, name, owner, "free", 0)

    async def _run(self, tenant: str, name: str, owner: str, to: str, ttl: float) -> Grip:
        fence, left = await self._store.run(
            _LOCK, self._store.tag(tenant), tenant=tenant, name=name, owner=owner, to=to, ttl_ms=int(ttl * 1000)
        )
        return Grip(fence, left / 1000)
