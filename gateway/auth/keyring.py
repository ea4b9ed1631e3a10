"""The public keys of one issuer: fetched, kept, renewed in the background and when a token names one we lack."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from gateway.auth.jwks import ALGORITHMS, MAX_KID, Header, Jwk, matching, parse_keys
from gateway.errors import KeysUnavailable, Unauthenticated

log = structlog.get_logger(__name__)

MAX_DOCUMENT = 256 * 1024  # bytes of a key set
REFRESH = 300.0
COOL = 5.0  # between two fetches at the wish of tokens: what a flood of invented ids can cause
STALE = 86_400.0
PATIENCE = 6.0  # longer than a fetch may take
_FIRST_NAP, _LONGEST_NAP = 1.0, 60.0

Fetch = Callable[[], Awaitable[bytes]]
"""Returns the document, at most `MAX_DOCUMENT` bytes, within its own deadline; raises OSError or ValueError."""


class Keyring:
    """Keeps an issuer's keys. `run` does all the fetching; `find` asks it to, and waits.

    Keys stay good for `stale` seconds after the last successful fetch: the issuer may be away for a while, but
    what it withdrew meanwhile does not count for ever. Durations are seconds.
    """

    def __init__(
        self,
        name: str,
        fetch: Fetch,
        *,
        refresh: float = REFRESH,
        cool: float = COOL,
        stale: float = STALE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._fetch = fetch
        self._refresh, self._cool, self._stale = refresh, cool, stale
        self._clock = clock
        self._keys: tuple[Jwk, ...] = ()
        self._fetched_at: float | None = None
        self._asked_at: float | None = None  # the last fetch began
        self._fetching = False
        self._wanted, self._finished = asyncio.Event(), asyncio.Event()
        self.fetches = 0

    async def find(self, header: Header) -> list[Jwk]:
        """Return the keys a token may be signed with, at least one.

        Raises:
            Unauthenticated: the algorithm is not one of ours, or the issuer has no such key.
            KeysUnavailable: the issuer's keys have not been had yet, or not for too long.
        """
        if header.alg not in ALGORITHMS or len(header.kid or "") > MAX_KID:
            raise Unauthenticated("The token's algorithm is not accepted")
        found = self._match(header)
        if not found and await self._renewed():
            found = self._match(header)
        if not found and not self._fresh:
            raise KeysUnavailable(retry_after=self._cool)
        if not found:
            raise Unauthenticated("The token's issuer has no such key (header kid and alg)")
        return found

    @property
    def _fresh(self) -> bool:
        return self._fetched_at is not None and self._clock() - self._fetched_at <= self._stale

    def _match(self, header: Header) -> list[Jwk]:
        return matching(self._keys, header) if self._fresh else []

    async def _renewed(self) -> bool:
        """Wait for the end of the fetch that runs, or ask for one, unless one has just been."""
        if not self._fetching:
            if self._asked_at is not None and self._clock() - self._asked_at < self._cool:
                return False
            self._wanted.set()
        finished = self._finished
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await finished.wait()
        return finished.is_set()

    async def run(self) -> None:
        """Fetch for ever: now, every `refresh` seconds, when asked to, and sooner after a failure."""
        nap = _FIRST_NAP
        while True:
            done = await self._renew()
            nap = _FIRST_NAP if done else min(nap * 2, _LONGEST_NAP)
            pause = self._refresh if done else min(nap, self._refresh)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause * random.uniform(0.8, 1)):  # noqa: S311 - jitter
                    await self._wanted.wait()

    async def _renew(self) -> bool:
        self._wanted.clear()
        self._asked_at, self._fetching = self._clock(), True
        self.fetches += 1
        try:
            self._take(parse_keys(await self._fetch()))
        except (OSError, ValueError) as error:
            log.warning("jwks.not_fetched", issuer=self._name, reason=str(error) or type(error).__name__)
            return False
        finally:
            self._fetching = False
            finished, self._finished = self._finished, asyncio.Event()
            finished.set()
        return True

    def _take(self, keys: tuple[Jwk, ...]) -> None:
        if not keys:
            log.warning("jwks.no_usable_keys", issuer=self._name)
        self._keys, self._fetched_at = keys, self._clock()
