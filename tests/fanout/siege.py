"""A gateway process under attack, with witnesses who must see everything meanwhile and a bound on its memory."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from gateway.settings import ChannelRules, Settings
from gateway.store.channels import ChannelStore
from gateway.store.redis import Store
from tests.e2e.stack import Process, stack
from tests.faults.readers import Socket, Stream
from tests.faults.scene import SETTINGS, Publisher
from tests.faults.subscribers import Crowd
from tests.faults.wire import CLOSE, UPGRADE, Cutter
from tests.support.servers import RedisServer
from tests.support.waiting import LIMIT

PAUSE = 0.01


class Knock(asyncio.Protocol):
    """Waits for the answer to a WebSocket handshake, and for the close."""

    def __init__(self) -> None:
        self.opened, self.closed = asyncio.Event(), asyncio.Event()
        self.code = 0
        self._input = Cutter()

    def data_received(self, data: bytes) -> None:
        self._input.add(data)
        if not self.opened.is_set() and self._input.head() is not None:
            self.opened.set()
        if self.opened.is_set():
            for first, payload in self._input.frames():
                if first == CLOSE:
                    self.code = int.from_bytes(payload[:2], "big")
                    self.closed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.closed.set()


class Fort:
    def __init__(self, process: Process, url: str, redis_url: str) -> None:
        self.process, self.url = process, url
        self.port = urlsplit(url).port or 0
        self.settings = Settings(redis_url=redis_url, channels={"open": ChannelRules(history_size=1000)})

    @property
    def megabytes(self) -> float:
        """Resident memory of the gateway."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    @asynccontextmanager
    async def besieged(self, megabytes: float = 16) -> AsyncIterator[None]:
        """While the block attacks, witnesses on every transport miss nothing and memory grows by no more than this."""
        names = [f"open:{secrets.token_hex(4)}", f"open:{secrets.token_hex(4)}"]
        logged = len(self.process.lines)
        async with Store.open(self.settings) as store, Crowd([self.port], names) as crowd:
            publisher = Publisher(ChannelStore(store, self.settings), names)
            crowd.join(Socket(crowd), Stream(crowd), Stream(crowd, wide=True))
            await crowd.ready()
            async with self._bounded(megabytes), publisher.publishing(PAUSE):
                yield
            await publisher.publish(5)
            await crowd.reach(publisher.next - 1)
            crowd.nobody_missed_anything(0, publisher.next - 1)
            assert all(member.losses == 0 for member in crowd.members)
        faults = [line for line in self.process.lines[logged:] if "failed" in line or "Traceback" in line]
        assert not faults, faults

    @asynccontextmanager
    async def _bounded(self, megabytes: float) -> AsyncIterator[None]:
        before, peak, over = self.megabytes, 0.0, asyncio.Event()

        async def look() -> None:
            nonlocal peak
            while not over.is_set():
                peak = max(peak, self.megabytes)
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            group.create_task(look())
            try:
                yield
            finally:
                over.set()
        assert peak - before <= megabytes, f"{before:.1f} MB before, {peak:.1f} MB at most"

    async def ask(self, data: bytes, *, quiet: float) -> bytes:
        """Send bytes; returns what comes back until the connection ends or nothing more comes for a while."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        answer = b""
        try:
            writer.write(data)
            while more := await asyncio.wait_for(reader.read(65536), quiet if answer else LIMIT):
                answer += more
        except (TimeoutError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
        return answer

    async def closed_with(self, *parts: bytes) -> int:
        """Open a WebSocket and send bytes; returns the code it is closed with, 0 without one."""
        transport, knock = await asyncio.get_running_loop().create_connection(Knock, "127.0.0.1", self.port)
        try:
            transport.write(UPGRADE)
            await asyncio.wait_for(knock.opened.wait(), LIMIT)
            for part in parts:
                if not knock.closed.is_set():
                    transport.write(part)
                    await asyncio.sleep(0.005)
            await asyncio.wait_for(knock.closed.wait(), LIMIT)
        finally:
            transport.abort()
        return knock.code

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A WebSocket after its handshake, raw."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**22)
        try:
            writer.write(UPGRADE)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT)
            assert head.startswith(b"HTTP/1.1 101 ")
            yield reader, writer
        finally:
            writer.transport.abort()


@contextmanager
def built(folder: Path) -> Iterator[Fort]:
    with RedisServer() as redis, stack(redis.url, "memory://", folder, **SETTINGS) as product:
        process, url = product.gateway()
        yield Fort(process, url, redis.url)
