"""A real failover: the master is killed under load, the Sentinels promote the replica, every subscriber ends right."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest
from websockets.exceptions import ConnectionClosed

from gateway.errors import GatewayError
from gateway.events import Position
from gateway.settings import Settings
from gateway.store.address import Node as Address
from gateway.store.channels import ChannelStore
from gateway.store.redis import Store
from tests.fanout.support import Node, WsClient, node, publish, settings_for, sse, ws
from tests.support.clusters import SentinelSetup
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults

READERS = 20  # of each kind


@pytest.fixture
def sentinels() -> Iterator[SentinelSetup]:
    with SentinelSetup() as running:
        yield running


@pytest.fixture
def settings(sentinels: SentinelSetup) -> Settings:
    return settings_for(sentinels.url)


@pytest.fixture
async def channels(settings: Settings) -> AsyncIterator[ChannelStore]:
    async with Store.open(settings) as store:
        yield ChannelStore(store, settings)


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[Node]:
    async with node(settings) as running:
        yield running


@dataclass
class Seen:
    """What a reader got: runs of (position, data), each run continuous by what it was told."""

    runs: list[list[tuple[str, int, int]]] = field(default_factory=lambda: [[]])
    told: int = 0

    def tell(self) -> None:
        self.told += 1
        self.runs.append([])

    def take(self, epoch: str, offset: int, data: int) -> None:
        self.runs[-1].append((epoch, offset, data))

    @property
    def last(self) -> int:
        return self.runs[-1][-1][2] if self.runs[-1] else -1


async def socket_reader(gateway: Node, seen: Seen) -> None:
    """A client as they are: connected again after a loss, recovering from its last position."""
    while True:
        try:
            async with ws(gateway) as client:
                if seen.runs[-1]:
                    epoch, offset, _ = seen.runs[-1][-1]
                    reply = (await client.subscribe("open:a", recover=True, epoch=epoch, offset=offset))["subscribe"]
                    if not reply.get("recovered", False):
                        seen.tell()
                    for pub in reply.get("publications", []):
                        seen.take(reply["epoch"], pub["offset"], pub["data"]["data"])
                    await follow(client, reply["epoch"], seen)
                else:
                    reply = (await client.subscribe("open:a"))["subscribe"]
                    await follow(client, reply["epoch"], seen)
        except (ConnectionClosed, ConnectionError, OSError, KeyError, TimeoutError):
            await asyncio.sleep(0.05)


async def follow(client: WsClient, epoch: str, seen: Seen) -> None:
    while True:
        push = (await client.next(30))["push"]
        if "pub" not in push:
            return
        seen.take(epoch, push["pub"]["offset"], push["pub"]["data"]["data"])


async def stream_reader(gateway: Node, seen: Seen) -> None:
    cursor = ""
    while True:
        headers = [f"Last-Event-ID: {cursor}"] if cursor else []
        try:
            async with sse(gateway.port, "channel=open:a", *headers) as stream:
                while True:
                    block = await stream.block(30)
                    cursor = stream.last_id or cursor
                    if block.get("event") == "gateway.reset":
                        seen.tell()
                    elif block.get("event") == "gateway.bye":
                        break
                    elif block.get("data"):
                        seen.take("", 0, json.loads(block["data"])["data"])
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            await asyncio.sleep(0.05)


async def produce(channels: ChannelStore, published: list[int], stop: asyncio.Event) -> None:
    """Number after number; one whose fate is not known is not repeated."""
    number = 0
    while not stop.is_set():
        try:
            await publish(channels, "open:a", data=number)
            published.append(number)
        except GatewayError:
            await asyncio.sleep(0.05)
        number += 1
        await asyncio.sleep(0.005)


def check(seen: Seen, history: list[int], published: list[int]) -> None:
    """Every run is without repeats; the last one is the new master's history, to its end; what is missing was told."""
    assert seen.runs[-1], "it hears again"
    for run in seen.runs:
        numbers = [data for _, _, data in run]
        assert numbers == sorted(set(numbers))
    got = [data for run in seen.runs for _, _, data in run]
    if not seen.told:
        assert [n for n in got if n in set(published)] == [n for n in published if n >= got[0]]
    last = [data for _, _, data in seen.runs[-1]]
    assert last == history[-len(last) :], "nothing is missing after what was told"


async def test_every_subscriber_ends_with_the_published_sequence_or_is_told(
    sentinels: SentinelSetup, gateway: Node, channels: ChannelStore
) -> None:
    published: list[int] = []
    stop = asyncio.Event()
    seen = [Seen() for _ in range(2 * READERS)]
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(socket_reader(gateway, each)) for each in seen[:READERS]]
        readers += [group.create_task(stream_reader(gateway, each)) for each in seen[READERS:]]
        await eventually(lambda: len(gateway.hub.connections) == 2 * READERS)
        producing = group.create_task(produce(channels, published, stop))
        await eventually(lambda: all(each.last > 50 for each in seen))
        before = await channels.position("default", "open:a")
        killed = sentinels.master()
        await asyncio.to_thread(killed.kill)
        at_kill = len(published)
        await eventually(lambda: len(published) > at_kill + 100, 60)
        mark = published[-1]
        await eventually(lambda: all(each.last > mark for each in seen), 60)
        stop.set()
        await producing  # its last one is in the history, too
        await eventually(lambda: all(each.last >= published[-1] for each in seen), 60)
        for reader in readers:
            reader.cancel()
    after = await channels.position("default", "open:a")
    assert sentinels.master() is not killed
    assert after.epoch != before.epoch
    history = await channels.history("default", "open:a", since=Position("", 0), limit=-1)
    kept = [json.loads(publication.event)["data"] for publication in history.publications]
    for each in seen:
        check(each, kept, published)
        assert each.told >= 1, "a failover cannot prove that nothing was lost"


async def test_a_master_that_steps_down_alive_is_left(
    sentinels: SentinelSetup, gateway: Node, channels: ChannelStore
) -> None:
    """The former master lives on as a replica: neither commands nor the feed stay with it."""
    async with ws(gateway) as client:
        await client.subscribe("open:a")
        await publish(channels, "open:a", data=1)
        await client.pubs(1)
    former = sentinels.master()
    sentinels.fail_over()
    await eventually(lambda: sentinels.master() is not former, 30)

    async def publishes() -> bool:
        try:
            await publish(channels, "open:a", data=2)
        except GatewayError:
            return False
        return True

    await eventually(publishes, 30)
    await eventually(lambda: gateway.hub.ready, 30)
    async with ws(gateway) as client:
        await client.subscribe("open:a")
        await publish(channels, "open:a", data=3)
        assert (await client.pubs(1))[0]["data"]["data"] == 3
    # The Sentinels turn the former master into a replica after a while; until then only the probe can see it.
    await eventually(lambda: gateway.hub.feed.node == Address("127.0.0.1", sentinels.master_port()), 30)
