"""When somebody who was refused should come back. Pure."""

from __future__ import annotations

from random import Random
from typing import Final, NamedTuple

WINDOW: Final = 10.0  # seconds over which ended jobs are counted
SHORTEST: Final = 1.0
LONGEST: Final = 300.0
UNKNOWN: Final = 30.0  # when nothing ended lately, so that nothing can be computed
ROOM: Final = 0.05  # part of what is there that should be done before it is worth coming back
SPREAD: Final = 1.25  # all who are refused now must not come back at once


class Pressure(NamedTuple):
    """How much there is, and how many jobs like these ended within `WINDOW`."""

    size: int
    ended: int


def retry_after(excess: float, ended: int, random: Random) -> float:
    """Return the seconds until so many jobs too many should have ended: excess / drain rate, bounded, jittered."""
    seconds = excess * WINDOW / ended if ended > 0 else UNKNOWN
    return min(LONGEST / SPREAD, max(SHORTEST, seconds)) * random.uniform(1, SPREAD)


def room(pressure: Pressure) -> float:
    """Return how many jobs should end before a queue that is full takes more than the next few."""
    return max(1.0, pressure.size * ROOM)


def over(pressure: Pressure, bound: int) -> float:
    """Return by how many jobs a bound is exceeded, counting the one that was refused."""
    return max(1.0, pressure.size - bound + 1)
