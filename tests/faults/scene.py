"""Gateway processes, a publisher beside them, and a crowd of subscribers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from gateway.errors import StoreUnavailable
from gateway.events import draft
from gateway.settings import ChannelRules, Settings
from gateway.store.channels import ChannelStore, Outgoing
from gateway.store.redis import Store
from tests.e2e.stack import Process, Stack, stack
from tests.faults.readers import Socket, Stream
from tests.faults.subscribers import Crowd

RULES = {"open": 200_000, "short": 50}  # namespace → history size
SETTINGS = {
    "GATEWAY_ANONYMOUS": "true",
    "GATEWAY_CHANNELS": json.dumps({name: {"subscribe": "anyone", "history_size": n} for name, n in RULES.items()}),
}
BATCH = 1000
FINISHES = 5


class Publisher:
    """Publishes the numbers 0, 1, 2 … straight to Redis. `next` is the one that comes next.

    An attempt that failed is repeated with the same event id until Redis has confirmed it.
    """

    def __init__(self, channels: ChannelStore, names: list[str], *, copies: int = 1) -> None:
        self.channels, self._names, self._copies = channels, names, copies
        self.next = 0

    async def publish(self, count: int, pause: float = 0.0) -> None:
        for _ in range(count):
            for _copy in range(self._copies):
                await self._surely(self._event(self.next))
            self.next += 1
            await asyncio.sleep(pause)

    async def pile_up(self, count: int) -> None:
        """Many, as fast as it goes."""
        for start in range(self.next, self.next + count, BATCH):
            await self.channels.publish_many("default", [self._event(start + n) for n in range(BATCH)])
        self.next += count

    @asynccontextmanager
    async def publishing(self, pause: float) -> AsyncIterator[None]:
        """Go on publishing for as long as the block takes."""
        enough = asyncio.Event()

        async def run() -> None:
            while not enough.is_set():
                await self.publish(1, pause)

        async with asyncio.TaskGroup() as group:
            group.create_task(run())
            try:
                yield
            finally:
                enough.set()

    def _event(self, number: int) -> Outgoing:
        event = draft("test.event", b"%d" % number, id_=f"n{number}", source="/tests")
        return Outgoing(event, self._names, dedupe=True)

    async def _surely(self, outgoing: Outgoing) -> None:
        while True:
            try:
                await self.channels.publish_many("default", [outgoing])
            except StoreUnavailable:
                await asyncio.sleep(0.05)
            else:
                return


class Scene:
    def __init__(self, product: Stack, publisher: Publisher, crowd: Crowd) -> None:
        self.product, self.publisher, self.crowd = product, publisher, crowd

    async def gateway(self) -> Process:
        """Start one more; new connections may go to it."""
        process, url = await asyncio.to_thread(self.product.gateway)
        self.crowd.ports.append(urlsplit(url).port or 0)
        return process

    async def audience(self, size: int) -> None:
        """Half WebSockets, a quarter streams of one channel, a quarter of all; returns when they are there."""
        crowd = self.crowd
        crowd.join(*(Socket(crowd) for _ in range(size // 2)))
        crowd.join(*(Stream(crowd, wide=n % 2 == 0) for n in range(size - size // 2)))
        await crowd.ready()

    async def finish(self) -> int:
        """Publish some more; returns the last number, which everyone has seen.

        Who is being told that he may have missed something goes on at the end of what is there at that moment: for him
        there must be more to come.
        """
        for _ in range(FINISHES):
            await self.publisher.publish(20)
            with suppress(AssertionError):
                await self.crowd.reach(self.publisher.next - 1, 6)
                return self.publisher.next - 1
        await self.publisher.publish(1)
        await self.crowd.reach(self.publisher.next - 1)
        return self.publisher.next - 1


@asynccontextmanager
async def scene(
    redis_url: str, folder: Path, *, through: str = "", namespace: str = "open", copies: int = 1
) -> AsyncIterator[Scene]:
    """Everything but gateways, which see Redis as `through`; the publisher sees it directly."""
    rules = {name: ChannelRules(subscribe="anyone", history_size=size) for name, size in RULES.items()}
    settings = Settings(redis_url=redis_url, channels=rules)
    names = [f"{namespace}:a", f"{namespace}:b"]
    with stack(through or redis_url, "memory://", folder, **SETTINGS) as product:
        try:
            async with Store.open(settings) as store, Crowd([], names) as crowd:
                yield Scene(product, Publisher(ChannelStore(store, settings), names, copies=copies), crowd)
        finally:
            # In a thread: a proxy in this loop must go on while gateways say goodbye to Redis.
            await asyncio.to_thread(product.stop)
