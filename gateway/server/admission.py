"""New connections come in at the pace the loop can bear (DESIGN 4.3): a storm waits, those who are in are served.

A handshake costs a hundred deliveries. When thousands arrive at once, a few are looked at per turn of the loop: more
while turns are short, fewer while they are long, whatever made them long. The others wait, first come, first served,
as a few kilobytes each; who has waited too long, or finds the queue full, is told to come back later.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

MAX_WAITING = 10_000
MAX_WAIT = 10.0  # seconds; the most impatient clients have given up by then, and who has gone costs nothing
RETRY = (1.0, 5.0)  # seconds after which they may come back, spread
REFUSALS = 256  # per turn
_LONG = 0.020  # seconds of a turn from which on fewer are let in
_SHORT = 0.010
_LEAST, _START, _MOST = 1, 16, 64
_URGENT = (b"GET /healthz", b"GET /readyz")

TurnAway = Callable[[bytes, float], bytes]
"""From the beginning of a request and the seconds to wait, the bytes of the answer; the connection is closed then."""


class Newcomer(Protocol):
    """A connection whose first bytes have come."""

    @property
    def gone(self) -> bool:
        """Whether it has been closed meanwhile."""

    def admit(self) -> None:
        """Go on with what it has sent."""

    def refuse(self, turn_away: TurnAway, retry: float) -> None:
        """Answer with `turn_away`, and close."""


class Pace:
    """How many come in per turn. Pure: additive increase, multiplicative decrease.

    Attributes:
        size: newcomers of the next turn.
    """

    def __init__(self) -> None:
        self.size = _START

    def took(self, seconds: float) -> None:
        """Learn how long the last turn took."""
        if seconds >= _LONG:
            self.size = max(_LEAST, self.size // 2)
        elif seconds <= _SHORT:
            self.size = min(_MOST, self.size + 2)


class Admission:
    """The queue of one listening process.

    Attributes:
        refused: how many were turned away.
    """

    def __init__(self, turn_away: TurnAway | None = None) -> None:
        self._turn_away = turn_away or unavailable
        self._pace = Pace()
        self._waiting: deque[tuple[float, Newcomer]] = deque()
        self._room = _START
        self._turning = False
        self._turned = 0.0
        self.refused = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, newcomer: Newcomer, first: bytes) -> None:
        """Admit a connection with its first bytes, now or when its turn comes. Probes of our health never wait."""
        if first.startswith(_URGENT):
            newcomer.admit()
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._turning:
            self._turning, self._turned, self._room = True, now, self._pace.size
            loop.call_soon(self._turn, loop)
        if self._room and not self._waiting:
            self._room -= 1
            newcomer.admit()
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append((now, newcomer))
        else:
            self._refuse(newcomer)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        self._pace.took(now - self._turned)
        self._turned = now
        self._refuse_late(now)
        self._room = self._pace.size
        while self._room and self._waiting:
            _, newcomer = self._waiting.popleft()
            if not newcomer.gone:
                self._room -= 1
                self._admit(newcomer)
        if self._waiting:
            loop.call_soon(self._turn, loop)
        else:
            self._turning = False

    def _admit(self, newcomer: Newcomer) -> None:
        try:
            newcomer.admit()
        except Exception:
            # One connection's fault must not keep the others outside.
            log.exception("server.admission_failed")
            self._refuse(newcomer)

    def _refuse_late(self, now: float) -> None:
        waiting = self._waiting
        for _ in range(REFUSALS):
            if not waiting or now - waiting[0][0] < MAX_WAIT:
                return
            _, newcomer = waiting.popleft()
            if not newcomer.gone:
                self._refuse(newcomer)

    def _refuse(self, newcomer: Newcomer) -> None:
        self.refused += 1
        if self.refused & (self.refused - 1) == 0:  # the first, the second, the fourth …: a storm is no log storm
            log.warning("server.overloaded", refused=self.refused, waiting=len(self._waiting))
        newcomer.refuse(self._turn_away, random.uniform(*RETRY))  # noqa: S311 - jitter


def unavailable(first: bytes, retry: float, headers: bytes = b"") -> bytes:
    """Answer any request with 503 and when to come back; `headers` are further lines of the head."""
    del first
    body = (
        b'{"type":"urn:gateway:problem:unavailable","title":"Temporarily unavailable","status":503,"detail":"Too busy"}'
    )
    return (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
        b"retry-after: %d\r\ncache-control: no-store\r\n%bconnection: close\r\n\r\n%b"
        % (len(body), round(retry) or 1, headers, body)
    )
