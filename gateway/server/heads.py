"""Deadlines for request heads: who connects and does not ask is let go (slow loris, half-open handshakes)."""

from __future__ import annotations

import asyncio
from typing import Protocol

MAX_BYTES = 64 * 1024  # of one request head, WebSocket handshakes too


class Asker(Protocol):
    """A connection on which the next request has not arrived completely."""

    def too_late(self) -> None:
        """Give up waiting; called at most once for each `Heads.wait`."""


class Heads:
    """The connections whose next request head is not complete. One timer for all of them.

    All wait equally long, so they end in the order they came in. The number is bounded, too: one more than
    `most` ends the oldest. A head that is sent at all arrives in a few milliseconds; only a flood is that large.
    """

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds = seconds
        self._most = most
        self._waiting: dict[Asker, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self, asker: Asker) -> None:
        """Expect a complete head in time. Asking again does not buy more time."""
        if asker in self._waiting:
            return
        loop = asyncio.get_running_loop()
        self._waiting[asker] = loop.time() + self._seconds
        if len(self._waiting) > self._most:
            self._end(next(iter(self._waiting)))
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._look)

    def came(self, asker: Asker) -> None:
        """Stop waiting: the head is complete, or the connection has ended."""
        self._waiting.pop(asker, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        for asker, until in list(self._waiting.items()):
            if until > loop.time():
                self._timer = loop.call_at(until, self._look)
                return
            self._end(asker)

    def _end(self, asker: Asker) -> None:
        del self._waiting[asker]
        asker.too_late()
