"""What a run did once: begun and ended effects, kept with the job."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from gateway.errors import StaleFence
from gateway.jobs.records import Holder
from gateway.jobs.scripts import load_script
from gateway.store.redis import Store

MAX_EFFECTS: Final = 64  # of a run
MAX_EFFECT: Final = 16 * 1024  # bytes of JSON of one's result

_ONCE = load_script("once")


class Begun(NamedTuple):
    """Whether an effect may go ahead.

    Attributes:
        kind: `ok`, `done` (with its result), `unknown` (it may have happened) or `full`.
        result: JSON.
    """

    kind: str
    result: bytes = b""


class EffectStore:
    """The effects of all jobs. Repeating any of these, with the same token, is safe.

    Each raises StaleFence when the job is another worker's, or has ended.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def begin(self, holder: Holder, name: str, token: str, *, again: bool) -> Begun:
        """Record that an effect begins; with `again` also one of which the end is not known."""
        return await self._run(holder, name, token, "begin", again=again, most=MAX_EFFECTS)

    async def end(self, holder: Holder, name: str, token: str, result: bytes | None) -> None:
        """Record the result of what this token began, or (None) that it did not happen."""
        to: Literal["done", "undone"] = "undone" if result is None else "done"
        await self._run(holder, name, token, to, result=None if result is None else result.decode())

    async def _run(self, holder: Holder, name: str, token: str, to: str, **more: object) -> Begun:
        kind, *result = await self._store.run(
            _ONCE,
            self._store.tag(holder.tenant),
            tenant=holder.tenant,
            id=holder.job_id,
            fence=holder.fence,
            name=name,
            token=token,
            to=to,
            **more,
        )
        if kind == b"stale":
            raise StaleFence
        return Begun(kind.decode(), *result)
