"""Waiting for a condition instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

PAUSE = 0.01
LIMIT = 20.0  # only a failure takes so long, and what a busy machine does in time is no failure


@overload
async def eventually(predicate: Callable[[], Awaitable[T]], timeout: float = ...) -> T: ...  # noqa: ASYNC109 - below
@overload
async def eventually(predicate: Callable[[], T], timeout: float = ...) -> T: ...  # noqa: ASYNC109 - below
async def eventually(
    predicate: Callable[[], T | Awaitable[T]],
    timeout: float = LIMIT,  # noqa: ASYNC109 - the failure names the condition; a bare TimeoutError would not
) -> T:
    """Wait until the predicate (plain or async) returns something true, and return that.

    What it raises is not caught. After `timeout` seconds an AssertionError tells its last result.
    """
    deadline = time.monotonic() + timeout
    while True:
        result = predicate()
        value: T = await result if inspect.isawaitable(result) else result
        if value:
            return value
        assert time.monotonic() < deadline, f"still {value!r} after {timeout} s: {_name(predicate)}"
        await asyncio.sleep(PAUSE)


def eventually_sync(predicate: Callable[[], T], timeout: float = LIMIT) -> T:
    """Do the same as `eventually` in plain code."""
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        assert time.monotonic() < deadline, f"still {value!r} after {timeout} s: {_name(predicate)}"
        time.sleep(PAUSE)


def _name(predicate: Callable[[], object]) -> str:
    code = getattr(predicate, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(predicate)
