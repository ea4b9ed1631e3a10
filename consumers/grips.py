"""The locks an attempt holds: taken, kept by the heartbeat, lost when their lease ends."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from random import Random
from typing import Final

import structlog

from consumers.context import Cancelled
from consumers.outcome import GiveUp, LockBusy, LockLost, put_back
from consumers.patience import until_stored
from gateway.errors import GatewayError, StoreUnavailable
from gateway.jobs.records import Holder
from gateway.store.locks import Locks

log = structlog.get_logger(__name__)

MAX_LOCKS: Final = 16
LONGEST_TTL: Final = 86_400.0
LONGEST_WAIT: Final = 3600.0
LOOK_EVERY: Final = (0.05, 0.25)  # seconds between two tries for a lock; spread

_jitter = Random()  # noqa: S311 - spreads load, guards nothing


class _Grip:
    """One lock. The lease is counted from before it was asked for, so it never ends later here than in Redis."""

    def __init__(self, name: str, owner: str, ttl: float, on_end: Callable[[str], None]) -> None:
        self.name, self.owner, self.ttl = name, owner, ttl
        self._on_end = on_end
        self._timer: asyncio.TimerHandle | None = None

    @property
    def live(self) -> bool:
        return self._timer is not None

    def leased(self, since: float) -> None:
        self.forget()
        self._timer = asyncio.get_running_loop().call_at(since + self.ttl, self._on_end, self.name)

    def forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Grips:
    """All locks of one attempt."""

    def __init__(
        self, locks: Locks, job: Holder, snoozes: int, lease: float, on_lost: Callable[[Exception], None]
    ) -> None:
        self._locks = locks
        self._job = job
        self._snoozes = snoozes
        self._lease = lease
        self._on_lost = on_lost
        self._held: dict[str, _Grip] = {}
        self._hurry = False

    async def take(self, name: str, ttl: float | None, wait: float) -> int:
        """Take a lock within `wait` seconds; returns the fence.

        Raises:
            LockBusy: somebody else has it.
            GiveUp: a rule is broken.
        """
        ttl = self._lease if ttl is None else ttl
        self._check(name, ttl, wait)
        grip = self._held[name] = _Grip(
            name, f"{self._job.job_id}:{self._job.fence}:{secrets.token_hex(4)}", ttl, self._end
        )
        try:
            fence = await self._wait(grip, wait)
        except BaseException:
            await self.free(name)  # the question may have been on its way
            raise
        if not fence:
            self._held.pop(name, None)
            raise LockBusy(f"the lock {name!r} is taken", after=put_back(0.0, self._snoozes, _jitter))
        if self._held.get(name) is not grip:
            await self._locks.free(self._job.tenant, name, grip.owner)
            raise Cancelled
        return fence

    def _check(self, name: str, ttl: float, wait: float) -> None:
        if not 0 <= wait <= LONGEST_WAIT:
            raise GiveUp(f"a lock can be waited for from 0 to {LONGEST_WAIT:g} seconds")
        if not self._lease <= ttl <= LONGEST_TTL:
            raise GiveUp(f"a lock's ttl must be from {self._lease:g} (a job's lease) to {LONGEST_TTL:g} seconds")
        if name in self._held:
            raise GiveUp(f"this attempt has the lock {name!r} already")
        if len(self._held) >= MAX_LOCKS:
            raise GiveUp(f"an attempt may hold at most {MAX_LOCKS} locks")

    async def _wait(self, grip: _Grip, wait: float) -> int:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            asked = loop.time()
            found = await until_stored(lambda: self._locks.take(self._job.tenant, grip.name, grip.owner, grip.ttl))
            if found.fence:
                if self._held.get(grip.name) is grip:
                    grip.leased(asked)
                return found.fence
            left = deadline - loop.time()
            if left <= 0 or self._hurry:
                return 0
            await asyncio.sleep(min(left, found.left, _jitter.uniform(*LOOK_EVERY)))

    async def keep(self) -> None:
        """Extend all leases; for the heartbeat."""
        for grip in [grip for grip in self._held.values() if grip.live]:
            asked = asyncio.get_running_loop().time()
            try:
                kept = await self._locks.keep(self._job.tenant, grip.name, grip.owner, grip.ttl)
            except GatewayError as error:
                log.warning("lock.not_kept", lock=grip.name, reason=error.code)  # its timer knows how long that is well
                if isinstance(error, StoreUnavailable):
                    return  # nor would the others; each would wait for its own answer, and the next heartbeat for all
                continue
            if self._held.get(grip.name) is not grip:
                continue  # given back meanwhile
            if kept:
                grip.leased(asked)
            else:
                self._end(grip.name)

    async def free(self, name: str) -> None:
        """Give a lock back; should Redis be away, its lease ends."""
        grip = self._held.pop(name, None)
        if grip is None:
            return
        grip.forget()
        try:
            await self._locks.free(self._job.tenant, name, grip.owner)
        except GatewayError as error:
            log.warning("lock.not_freed", lock=name, reason=error.code)

    async def free_all(self) -> None:
        """Give all back."""
        for name in list(self._held):
            await self.free(name)

    def hurry(self) -> None:
        """Wait for no lock any more: the task is cancelled, and a thread or process cannot be while it waits."""
        self._hurry = True

    def forget(self) -> None:
        """Look after none any more."""
        self.hurry()
        for grip in self._held.values():
            grip.forget()
        self._held.clear()

    def _end(self, name: str) -> None:
        grip = self._held.pop(name, None)
        if grip is not None:
            grip.forget()
            log.warning("lock.lost", lock=name, job_id=self._job.job_id)
            self._on_lost(LockLost(f"the lease of the lock {name!r} ended"))
