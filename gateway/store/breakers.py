"""Circuit breakers that all processes share through Redis. Their arithmetic is `lua/breaker_prelude.lua`."""

from __future__ import annotations

import random
from importlib import resources
from typing import Final, Literal, NamedTuple

import msgspec

from gateway.store.redis import Script, Store

ARITHMETIC: Final = resources.files("gateway.store").joinpath("lua/breaker_prelude.lua").read_text()
_BREAKER = Script.load("gateway.store", "lua/breaker.lua", prelude=ARITHMETIC)
_SHORTEST, _LONGEST = 0.001, 86_400.0

Outcome = Literal["ok", "failed", "void"]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """When a breaker opens, and for how long. Times are seconds.

    Attributes:
        failures: so many in a row open it.
        rate: so does this part of the attempts within `window`,
        minimum: if there were at least so many.
        window: the time that is looked back at.
        cool_down: how long it stays open at first; doubled each time the probe fails,
        longest: up to this.
        probe: how long the probe may take until another one is let through.

    Raises:
        ValueError: they make no sense.
    """

    failures: int = 5
    rate: float = 0.5
    minimum: int = 10
    window: float = 60.0
    cool_down: float = 30.0
    longest: float = 900.0
    probe: float = 60.0

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        faults = {
            "failures and minimum must be at least 1": min(self.failures, self.minimum) < 1,
            "rate must be above 0 and at most 1": not 0 < self.rate <= 1,
            "window and probe must be from 1 ms to a day": not all(map(_sane, (self.window, self.probe))),
            "cool_down and longest must be from 1 ms to a day": not all(map(_sane, (self.cool_down, self.longest))),
            "cool_down must not be over longest": self.cool_down > self.longest,
        }
        for fault, found in faults.items():
            if found:
                raise ValueError(f"a breaker's {fault}")

    def in_ms(self) -> dict[str, float]:
        """Return them as the arithmetic takes them."""
        return {
            "failures": self.failures,
            "rate": self.rate,
            "minimum": self.minimum,
            **{name: 1000 * getattr(self, name) for name in ("window", "cool_down", "longest", "probe")},
        }


class Passage(NamedTuple):
    """A breaker's answer: `wait` seconds if it is open, else 0 and the generation to report under."""

    generation: int
    wait: float


class Breakers:
    """The breakers of the deployment, by name. Each is a key of its own tag, so on a Cluster they spread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def admit(self, name: str, rules: Rules, token: str) -> Passage:
        """Ask to pass; a repetition with the same token gets the same answer."""
        said, number = await self._store.run(_BREAKER, _tag(name), rules=rules.in_ms(), token=token)
        return Passage(0, max(0.001, number / 1000)) if said == b"wait" else Passage(number, 0.0)

    async def report(self, name: str, rules: Rules, generation: int, outcome: Outcome) -> str:
        """Tell what came of a passage; returns the state it left: closed, open or half."""
        said, _ = await self._store.run(
            _BREAKER,
            _tag(name),
            rules=rules.in_ms(),
            generation=generation,
            outcome=outcome,
            random=random.random(),  # noqa: S311 - spreads load, guards nothing
        )
        return str(said.decode())


def _sane(seconds: float) -> bool:
    return _SHORTEST <= seconds <= _LONGEST


def _tag(name: str) -> str:
    return f"{{breaker:{name}}}"
