"""`ctx.lock`: a leased, fenced lock of the tenant.

A lease alone excludes nobody: a task can be stopped for longer than it lasts. Whoever the lock protects should refuse a
fence below one it has seen (M. Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

from consumers.asking import Asker, Free, Take


class Lock:
    """`async with … as fence` in an async task, `with … as fence` in a thread or a process."""

    def __init__(self, asker: Asker, name: str, ttl: float | None, wait: float) -> None:
        self._asker = asker
        self._question = Take(name, ttl, wait)

    async def __aenter__(self) -> int:
        return _fence(await self._asker.ask(self._question))

    async def __aexit__(self, *_: object) -> None:
        await self._asker.ask(Free(self._question.name))

    def __enter__(self) -> int:
        return _fence(self._asker.ask_sync(self._question))

    def __exit__(self, *_: object) -> None:
        self._asker.ask_sync(Free(self._question.name))


def _fence(answer: object) -> int:
    if not isinstance(answer, int):
        raise TypeError(answer)
    return answer
