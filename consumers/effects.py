"""`ctx.once`: an effect that shall happen once in a run, whatever becomes of the attempts (DESIGN 4.4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from consumers.asking import Asker, Begin, End
from consumers.outcome import GiveUp, Retry, Snooze, encode_result

# With these the function itself says that nothing happened.
_NOT_HAPPENED = (Retry, Snooze, GiveUp)


async def once(asker: Asker, name: str, key: str, function: Callable[[str], Awaitable[object]], *, again: bool) -> Any:  # noqa: ANN401 - JSON
    """See `Helpers.once`."""
    recorded = await asker.ask(Begin(name, again))
    if recorded is None:
        happened = False
        try:
            result = await function(key)
            happened = True
            recorded = encode_result(result)
        except BaseException as error:
            await asker.ask(_broken_off(name, error, happened=happened))
            raise
        await asker.ask(End(name, "yes", recorded))
    return _decoded(recorded)


def once_sync(asker: Asker, name: str, key: str, function: Callable[[str], object], *, again: bool) -> Any:  # noqa: ANN401 - JSON
    """See `Helpers.once_sync`."""
    recorded = asker.ask_sync(Begin(name, again))
    if recorded is None:
        happened = False
        try:
            result = function(key)
            happened = True
            recorded = encode_result(result)
        except BaseException as error:
            asker.ask_sync(_broken_off(name, error, happened=happened))
            raise
        asker.ask_sync(End(name, "yes", recorded))
    return _decoded(recorded)


def _broken_off(name: str, error: BaseException, *, happened: bool) -> End:
    return End(name, "no" if isinstance(error, _NOT_HAPPENED) and not happened else "unknown")


def _decoded(recorded: object) -> Any:  # noqa: ANN401 - JSON
    if not isinstance(recorded, bytes):
        raise TypeError(recorded)
    return msgspec.json.decode(recorded)
