"""Who is in a crowd, remembered for a moment: counting the users of a large channel is work for the store."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from gateway.store.presence import Present

CROWD = 500  # clients; who is on a smaller channel is asked each time
FRESH = 1.0  # seconds an answer is good for
MAX_BYTES = 32 * 1024 * 1024  # remembered, of all channels
_EACH = 1024  # bytes an answer counts for besides its members
_MEMBER = 128

Question = tuple[str, str, int, int]
"""Tenant, channel, members at most, bytes of their infos at most."""


class _Answer(NamedTuple):
    present: Present
    until: float
    size: int


class Crowds:
    """Asks once a second about a crowd, whoever wants to know; `clock` is seconds, monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._answers: OrderedDict[Question, _Answer] = OrderedDict()
        self._asking: dict[Question, asyncio.Lock] = {}
        self._bytes = 0

    async def read(self, question: Question, ask: Callable[[], Awaitable[Present]]) -> Present:
        """Return what is remembered, or ask; raises what `ask` raises."""
        answer = self._answers.get(question)
        if answer is None:
            return self._keep(question, await ask())
        if answer.until > self._clock():
            return answer.present
        # A crowd the last time: one asks anew, and the others wait for it.
        async with self._asking.setdefault(question, asyncio.Lock()):
            try:
                answer = self._answers.get(question)
                if answer is not None and answer.until > self._clock():
                    return answer.present
                return self._keep(question, await ask())
            finally:
                self._asking.pop(question, None)

    def _keep(self, question: Question, present: Present) -> Present:
        self._drop(question)
        if present.clients >= CROWD:
            size = _EACH + sum(_MEMBER + len(info) for info in present.members.values())
            self._answers[question] = _Answer(present, self._clock() + FRESH, size)
            self._bytes += size
            while self._bytes > MAX_BYTES:
                self._drop(next(iter(self._answers)))
        return present

    def _drop(self, question: Question) -> None:
        answer = self._answers.pop(question, None)
        if answer is not None:
            self._bytes -= answer.size
