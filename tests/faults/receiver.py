"""What the tasks of the fault runs act on: an idempotent receiver that remembers every call."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Self

from tests.support.waiting import eventually


class Receiver:
    """`PUT /effects/<key>` has an effect the first time a key comes, and none later.

    Attributes:
        calls: by key.
        gate: while it is closed calls are counted and their answers held back.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.port = 0
        self._server: asyncio.Server | None = None

    @property
    def effects(self) -> set[str]:
        """The keys that had an effect."""
        return set(self.calls)

    @property
    def repeats(self) -> int:
        """How many calls had none, because the key had come before."""
        return self.calls.total() - len(self.calls)

    async def reached(self, count: int, limit: float = 30) -> None:
        """Wait until so many keys have come."""
        await eventually(lambda: len(self.calls) >= count, limit)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            _, path, _ = head.split(b" ", 2)
            self.calls[path.removeprefix(b"/effects/").decode()] += 1
            await self.gate.wait()
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the worker was killed meanwhile
        finally:
            writer.close()
