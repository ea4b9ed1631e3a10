"""How fast a client may send commands: a token bucket in one number (GCRA). Pure."""

from __future__ import annotations

from enum import Enum

FLOOD = 2.0  # bursts ahead of its rate at which a client is not only refused


class Verdict(Enum):
    """What becomes of a command."""

    FINE = "fine"
    OVER = "over"
    FLOOD = "flood"


def spend(paid_until: float, now: float, count: int = 1, *, rate: float, burst: int) -> tuple[float, Verdict]:
    """Take commands from a client's allowance.

    Args:
        paid_until: when all commands so far would have been sent at the rate; at first 0.
        now: seconds on the same clock.
        count: how many there are.
        rate: commands per second on end.
        burst: commands at once.

    Returns:
        The next `paid_until`, and the verdict. Refused commands count, too: who goes on is closed.
    """
    paid_until = max(paid_until, now) + count / rate
    ahead = (paid_until - now) * rate
    if ahead > FLOOD * burst:
        return paid_until, Verdict.FLOOD
    return paid_until, Verdict.OVER if ahead > burst else Verdict.FINE
