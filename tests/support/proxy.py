"""A TCP proxy that breaks the network between two programs on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import urlsplit

_CHUNK = 64 * 1024


class TcpProxy:
    """Forwards a free port of 127.0.0.1 to a target on 127.0.0.1.

    `cut`: connections are aborted, new ones too. `stall`: connections stay and nothing passes, as with a network
    that swallows packets. `drop`: connections are aborted, new ones work. `resume`: all is well again.
    `swallow`: connections that are open stay so for ever and lose what is sent, both ways; new ones work.
    `stall_feeds` and `drop_feeds` do it only to the connections on which a Redis client has subscribed.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._stalled: set[asyncio.StreamWriter] = set()
        self._feeds: set[asyncio.StreamWriter] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    def url(self, target: str) -> str:
        """The target's URL through the proxy."""
        parts = urlsplit(target)
        userinfo, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{userinfo}{at}127.0.0.1:{self.port}").geturl()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._writers) // 2

    def cut(self) -> None:
        self._refusing = True
        self.drop()

    def drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._flowing.set()

    def stall(self) -> None:
        self._flowing.clear()

    def swallow(self) -> int:
        """Returns how many there are."""
        self._stalled |= self._writers
        return self.connections

    def resume(self) -> None:
        self._refusing = False
        self._stalled.clear()
        self._flowing.set()

    def stall_feeds(self) -> int:
        """Returns how many there are."""
        self._stalled |= self._feeds
        return len(self._feeds)

    def drop_feeds(self) -> int:
        """Returns how many there were."""
        feeds = len(self._feeds)
        for writer in self._feeds:
            writer.transport.abort()
        return feeds

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            self.cut()
            await self._server.wait_closed()
            await asyncio.gather(*self._handlers)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._handlers.add(task)
            task.add_done_callback(self._handlers.discard)
        async with self._held(writer):
            if self._refusing:
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            async with self._held(far_writer), asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, far_writer, watched=writer))
                tasks.create_task(self._pump(far_reader, writer))

    @asynccontextmanager
    async def _held(self, writer: asyncio.StreamWriter) -> AsyncIterator[None]:
        self._writers.add(writer)
        try:
            yield
        except (OSError, ExceptionGroup):
            pass  # the target is down or the connection was cut: both sides hear it by the abort
        finally:
            writer.transport.abort()
            for known in (self._writers, self._feeds, self._stalled):
                known.discard(writer)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watched: asyncio.StreamWriter | None = None
    ) -> None:
        while data := await reader.read(_CHUNK):
            if watched is not None and b"\r\nSUBSCRIBE\r\n" in data:
                self._feeds.add(watched)
            if writer in self._stalled:
                continue  # swallowed: what is lost on a dead path does not come later
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        await self._flowing.wait()
        if writer.can_write_eof() and not writer.transport.is_closing():
            writer.write_eof()
