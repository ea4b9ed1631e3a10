"""All timers of all connections in one dictionary."""

from __future__ import annotations

from math import ceil
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

TICK = 0.1  # seconds per slot: the work of a second is spread over ten turns


class Timed(Protocol):
    """Something with one deadline at a time."""

    def on_deadline(self, now: float) -> float | None:
        """Do what is due; return the next deadline (loop time), or None when there is none."""

    def abort(self) -> None:
        """Give up at once."""


class Wheel:
    """Slot → what is due in it. One entry per connection, renewed by its own answer."""

    def __init__(self, now: float) -> None:
        self._slots: dict[int, list[Timed]] = {}
        self._done = int(now / TICK)

    def add(self, item: Timed, at: float) -> None:
        """Call `item.on_deadline` at a time, at the earliest."""
        slot = max(ceil(at / TICK), self._done + 1)
        self._slots.setdefault(slot, []).append(item)

    def advance(self, now: float) -> None:
        """Run everything due until now."""
        upto = int(now / TICK)
        while self._done < upto:
            self._done += 1
            for item in self._slots.pop(self._done, ()):
                self._run(item, now)

    def _run(self, item: Timed, now: float) -> None:
        try:
            following = item.on_deadline(now)
        except Exception:
            # One connection's fault must not stop everyone's timers.
            log.exception("hub.deadline_failed")
            item.abort()
            return
        if following is not None:
            self.add(item, following)
