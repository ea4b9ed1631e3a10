"""Scripts that run for many callers at once.

A script costs a round trip, and on the server its prelude, whatever it does. Calls of the same script that come while
one is under way wait for it and then go together, each answered for itself. A caller alone waits for nobody; nor does
anybody wait long for a run without an answer: its connection may be dead, and others are not.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, NamedTuple

MOST_CALLS: Final = 64  # in one run: a script holds everyone else up while it runs
MOST_BYTES: Final = 1024 * 1024
PATIENCE: Final = 0.5  # seconds until the next run does not wait for this one's answer

# The script's own text becomes the body of `one`, with each call's arguments in turn as the `A` of the preludes. A
# failing call is an error for its own caller only.
_LUA = """
local function one()
{body}
end
local answers = {{}}
for i, call in ipairs(A.calls) do
  A = call
  local well, answer = pcall(one)
  if not well then answer = {{err = type(answer) == 'table' and answer.err or 'ERR ' .. tostring(answer)}} end
  answers[i] = answer or false
end
return answers
"""


def for_many(body: str) -> str:
    """Return the text of a script that does for each of `A.calls` what `body` does for `A`."""
    return _LUA.format(body=body)


class _Call(NamedTuple):
    arguments: bytes
    answer: asyncio.Future[Any]


class Gatherer:
    """The calls of one script on one shard: one run at a time, as long as they are answered.

    Args:
        run: runs the script with its packed arguments.
        start: starts a task and owns it.
    """

    def __init__(
        self,
        run: Callable[[bytes], Awaitable[list[Any]]],
        start: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._run = run
        self._start = start
        self._waiting: deque[_Call] = deque()
        self._server: object | None = None  # whoever serves those that wait

    async def call(self, arguments: bytes) -> Any:  # noqa: ANN401 - scripts differ
        """Return the script's answer to one call; raises what the driver raises. Bounded by who calls."""
        call = _Call(arguments, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._server is None:
            self._hand_over()
        return await call.answer

    def _hand_over(self) -> None:
        """Let another one serve those that wait, or come."""
        self._server = object() if self._waiting else None
        if self._server is not None:
            self._start(self._serve(self._server))

    async def _serve(self, me: object) -> None:
        try:
            while self._waiting and self._server is me:
                await self._serve_some()
        finally:
            if self._server is me:
                self._server = None

    async def _serve_some(self) -> None:
        calls = list(self._take())
        if not calls:
            return  # all who called have gone
        late = asyncio.get_running_loop().call_later(PATIENCE, self._hand_over)
        try:
            answers: Iterable[Any] = await self._run(_together([call.arguments for call in calls]))
        except Exception as error:  # noqa: BLE001 - each caller's to judge
            answers = itertools.repeat(error)
        finally:
            late.cancel()
        for call, answer in zip(calls, answers, strict=False):
            if call.answer.done():
                continue  # the caller has gone
            if isinstance(answer, Exception):
                call.answer.set_exception(answer)
            else:
                call.answer.set_result(answer)

    def _take(self) -> Iterable[_Call]:
        size = 0
        for _ in range(min(MOST_CALLS, len(self._waiting))):
            call = self._waiting[0]
            size += len(call.arguments)
            if size > MOST_BYTES and size > len(call.arguments):
                return  # never none: a call alone may be larger
            self._waiting.popleft()
            if not call.answer.done():
                yield call


def _together(calls: list[bytes]) -> bytes:
    """Pack `{"calls": [...]}` from calls that are packed already (MessagePack: fixmap, fixstr, array 16)."""
    return b"\x81\xa5calls\xdc" + len(calls).to_bytes(2, "big") + b"".join(calls)
