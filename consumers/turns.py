"""Which class of jobs starts next: weighted turns for slots, so that urgent work goes first and no class starves.

Stride scheduling (C. Waldspurger, W. Weihl, "Stride Scheduling: Deterministic Proportional-Share Resource Management",
MIT 1995): while all classes have something waiting, each gets its weight's part of the starts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Mapping
from typing import Final

from gateway.jobs.model import PRIORITIES, Priority

# Of ten starts under saturation critical gets 6, default 3 and bulk 1.
WEIGHTS: Final[Mapping[Priority, int]] = {"critical": 6, "default": 3, "bulk": 1}


class Shares:
    """The choice among classes. Pure: what was chosen before is all it knows."""

    def __init__(self, weights: Mapping[Priority, int] = WEIGHTS) -> None:
        self._strides = {priority: 1 / weights[priority] for priority in PRIORITIES}
        self._passes = dict.fromkeys(PRIORITIES, 0.0)
        self._now = 0.0  # the pass of the last choice: a class that was away takes part from here, without arrears

    def pick(self, waiting: Collection[Priority]) -> Priority:
        """Choose one of the classes that wait, of which there is at least one; of equals the more urgent."""
        chosen = min((self._due(priority), index) for index, priority in enumerate(PRIORITIES) if priority in waiting)
        self._now = chosen[0]
        priority = PRIORITIES[chosen[1]]
        self._passes[priority] = self._now + self._strides[priority]
        return priority

    def _due(self, priority: Priority) -> float:
        return max(self._passes[priority], self._now)


class Turns:
    """A semaphore whose waiters take turns by class, in order within a class.

    Args:
        number: how many may hold it.
    """

    def __init__(self, number: int) -> None:
        self._free = number
        self._shares = Shares()
        self._waiting: dict[Priority, deque[asyncio.Future[None]]] = {priority: deque() for priority in PRIORITIES}

    async def acquire(self, priority: Priority) -> None:
        """Wait for a slot."""
        if self._free and not any(self._waiting.values()):
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting[priority].append(turn)
        try:
            await turn
        except BaseException:
            if not turn.cancelled():
                self.release()  # it was given to us, and we no longer want it
            raise

    def release(self) -> None:
        """Give a slot back."""
        self._free += 1
        self._serve()

    def _serve(self) -> None:
        while self._free:
            for turns in self._waiting.values():
                while turns and turns[0].done():  # cancelled
                    turns.popleft()
            waiting = [priority for priority, turns in self._waiting.items() if turns]
            if not waiting:
                return
            self._free -= 1
            self._waiting[self._shares.pick(waiting)].popleft().set_result(None)
