"""Undos: the functions registered for undoing a step, so that any worker can do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from consumers.registry import place
from gateway.errors import ConfigurationError
from gateway.jobs.steps import NAME, NAME_RULE

F = TypeVar("F", bound=Callable[..., Any])

LONGEST: Final = 3600.0


class Undo(NamedTuple):
    """A registered undo.

    Attributes:
        name: what `ctx.step(…, undo=name)` calls it.
        function: called with the context, the step's recorded result (None when it is not known whether the step
            happened), and the step's `undo_input` if there is one.
        timeout: seconds one try may take.
        max_attempts: tries until the job waits in the dead letters.
    """

    name: str
    function: Callable[..., Any]
    timeout: float
    max_attempts: int


_undos: dict[str, Undo] = {}


def undo(name: str, *, timeout: float = 60, max_attempts: int = 10) -> Callable[[F], F]:
    """Register a function, async or plain (run in a thread), that undoes steps. It must stand being called twice.

    Args:
        name: 1 to 64 characters of A-Z a-z 0-9 _ . : / # -.
        timeout: seconds one try may take.
        max_attempts: tries until the job waits in the dead letters.

    Raises:
        ConfigurationError: the registration breaks a rule, or the name is taken.
    """

    def register(function: F) -> F:
        known = _undos.get(name)
        faults = {
            f"the name {NAME_RULE}": not NAME.match(name),
            f"timeout must be above 0 and at most {LONGEST:g} seconds": not 0 < timeout <= LONGEST,
            "max_attempts must be at least 1": max_attempts < 1,
            "the name is taken": known is not None and place(known.function) != place(function),
        }
        for fault, found in faults.items():
            if found:
                raise ConfigurationError(f"undo {name!r}: {fault}")
        _undos[name] = Undo(name, function, timeout, max_attempts)
        return function

    return register


def find_undo(name: str) -> Undo | None:
    """Return a registered undo."""
    return _undos.get(name)
