"""`ctx.breaker`: a circuit breaker around a task's own dependency (M. Nygard, "Release It!", 2007)."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Literal

from consumers.asking import Admit, Asker, Report
from consumers.outcome import GiveUp, Retry, Snooze
from gateway.store.breakers import Rules

# What a task says about its job, and the end of the whole program, tell nothing about the dependency.
_SAYS_NOTHING = (Snooze, GiveUp, Retry, KeyboardInterrupt, SystemExit, GeneratorExit)


class Breaker:
    """One passage at a time: `async with` in an async task, `with` in a thread or a process.

    What the block raises is a failure of the dependency, unless it is one of `ignore`.
    """

    def __init__(self, asker: Asker, name: str, rules: Rules, ignore: tuple[type[Exception], ...]) -> None:
        self._asker = asker
        self._question = Admit(name, rules)
        self._ignore = ignore
        self._numbers: list[int] = []

    async def __aenter__(self) -> None:
        self._enter(await self._asker.ask(self._question))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self._asker.ask(self._leave(error))

    def __enter__(self) -> None:
        self._enter(self._asker.ask_sync(self._question))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._asker.ask_sync(self._leave(error))

    def _enter(self, number: object) -> None:
        if not isinstance(number, int):
            raise TypeError(number)
        self._numbers.append(number)

    def _leave(self, error: BaseException | None) -> Report:
        return Report(self._numbers.pop(), outcome_of(error, self._ignore))


def outcome_of(
    error: BaseException | None, ignore: tuple[type[Exception], ...]
) -> Literal["ok", "failed", "void", "cut"]:
    """Say what the end of a block tells about the dependency. An ignored error is an answer of it."""
    if error is None or isinstance(error, ignore):
        return "ok"
    if isinstance(error, asyncio.CancelledError):
        return "cut"
    return "void" if isinstance(error, _SAYS_NOTHING) else "failed"
