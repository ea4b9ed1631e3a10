"""An end for coroutines that do not end when they are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Final, Generic, TypeVar

import structlog

T = TypeVar("T")

log = structlog.get_logger(__name__)

PATIENCE: Final = 3.0  # seconds a cancelled task has to clean up


class Severable(Generic[T]):
    """`await Severable(coroutine)` is the coroutine; but still cancelled after `PATIENCE`, it is left where it stands.

    A cancellation that the coroutine asked for itself (`asyncio.timeout`, a task group) and took back does not count.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._name = getattr(coroutine, "__qualname__", "")
        self._severed = False
        self._timer: asyncio.TimerHandle | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        try:
            return (yield from self._drive())
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _drive(self) -> Generator[Any, Any, T]:
        thrown: BaseException | None = None
        while True:
            try:
                waits_for = self._coroutine.send(None) if thrown is None else self._coroutine.throw(thrown)
            except StopIteration as stop:
                result: T = stop.value
                return result
            try:
                thrown = None
                yield waits_for
            except asyncio.CancelledError as error:
                if self._severed:
                    self._close()
                    raise
                self._watch()
                thrown = error
            except BaseException as error:  # noqa: BLE001 - the coroutine's to handle
                thrown = error

    def _watch(self) -> None:
        task = asyncio.current_task()
        if task is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._sever, task)

    def _sever(self, task: asyncio.Task[Any]) -> None:
        self._timer = None
        if task.cancelling():
            self._severed = True
            task.uncancel()  # the same request once more: an `asyncio.timeout` around us still counts one
            task.cancel()

    def _close(self) -> None:
        log.error("task.severed", task=self._name)
        try:
            self._coroutine.close()
        except Exception as error:  # noqa: BLE001 - "ignored GeneratorExit", or its cleaning up failed: it is out all the same
            log.warning("task.close_failed", task=self._name, reason=str(error))
