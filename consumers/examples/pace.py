"""How fast mails may go to each domain. Pure: the time is an argument."""

from __future__ import annotations

from typing import Final

MAX_DOMAINS: Final = 10_000


class Pace:
    """So many a second to each domain, and a few at once; by the generic cell rate algorithm (ITU-T I.371).

    Args:
        rate: a second.
        burst: at once, after a pause.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self.every = 1 / rate
        self._slack = self.every * (burst - 1)
        self._due: dict[str, float] = {}  # when the next mail would be due if none had come early

    def wait(self, domain: str, now: float) -> float:
        """Return in how many seconds the next one may go to the domain; 0 for now."""
        return max(0.0, self._due.get(domain, now) - self._slack - now)

    def reserve(self, domain: str, now: float, patience: float) -> float | None:
        """Take the next turn and return in how many seconds it is; None, and nothing taken, if that is too long."""
        wait = self.wait(domain, now)
        if wait > patience:
            return None
        self._due[domain] = max(now, self._due.get(domain, now)) + self.every
        if len(self._due) > MAX_DOMAINS:
            ahead = {name: due for name, due in self._due.items() if due > now}
            self._due = ahead if len(ahead) <= MAX_DOMAINS // 2 else {}  # so busy, all begin anew
        return wait
