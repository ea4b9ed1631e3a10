"""How many requests a tenant may still make, right across all processes: one token bucket per tenant in Redis.

A process takes tokens in lots, so most requests cost no round trip. Tokens it holds stay good: every request was paid
for, and in any `t` seconds a tenant makes at most `burst + rate * t` requests, and a lot more per process.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

import structlog

from gateway.errors import RateLimited, StoreUnavailable
from gateway.store.redis import Script, Store

log = structlog.get_logger(__name__)

LOTS = 16  # a lot is this part of the burst
MAX_TENANTS = 10_000  # remembered here; the tokens of one that is forgotten are lost to it
PATIENCE = 0.5  # seconds a request waits for tokens; a Redis that takes longer is as good as away
UNPAID = 1.0  # seconds for which nobody is counted after Redis could not be asked

_TAKE = Script.load("gateway.store", "lua/take.lua")


class _Purse:
    """What this process holds for one tenant."""

    __slots__ = ("empty_until", "lock", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self.empty_until = 0.0
        self.lock = asyncio.Lock()


class Rates:
    """The limiter of one process.

    Args:
        store: where the buckets are.
        rate: tokens per second and tenant; 0 lets everything pass.
        burst: the size of a bucket.
        clock: seconds, monotonic.
    """

    def __init__(self, store: Store, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._rate, self._burst = rate, burst
        self._lot = max(1, burst // LOTS)
        self._clock = clock
        self._purses: OrderedDict[str, _Purse] = OrderedDict()
        self._blind_until = 0.0

    async def spend(self, tenant: str) -> None:
        """Pay for one request.

        When Redis is away or stalls nobody is held up for longer than `PATIENCE`: whatever a request wants there
        fails by itself.

        Raises:
            RateLimited: the tenant has used up what it may; says when to come back.
        """
        if not self._rate:
            return
        purse = self._purse(tenant)
        if not purse.tokens and self._clock() >= purse.empty_until:
            await self._fill(tenant, purse)
        if purse.tokens:
            purse.tokens -= 1
        elif self._clock() >= self._blind_until:
            raise RateLimited(retry_after=max(0.001, purse.empty_until - self._clock()))

    async def _fill(self, tenant: str, purse: _Purse) -> None:
        """Take a lot; of many who find nothing one asks, and the others wait for it."""
        async with purse.lock:
            now = self._clock()
            if purse.tokens or now < purse.empty_until or now < self._blind_until:
                return
            try:
                async with asyncio.timeout(PATIENCE):
                    taken, wait = await self._take(tenant)
            except (StoreUnavailable, TimeoutError):
                self._blind_until = self._clock() + UNPAID
                log.warning("rates.not_counted")
                return
            purse.tokens = taken
            if not taken:
                purse.empty_until = self._clock() + wait / 1000

    async def _take(self, tenant: str) -> tuple[int, int]:
        taken, wait = await self._store.run(
            _TAKE, self._store.tag(tenant), tenant=tenant, rate=self._rate, burst=self._burst, want=self._lot
        )
        return int(taken), int(wait)

    def _purse(self, tenant: str) -> _Purse:
        purse = self._purses.get(tenant)
        if purse is None:
            purse = self._purses[tenant] = _Purse()
            if len(self._purses) > MAX_TENANTS:
                self._purses.popitem(last=False)
        else:
            self._purses.move_to_end(tenant)
        return purse
