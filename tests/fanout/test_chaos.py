"""Everything at once: two nodes, lost feeds, cut connections, resumes; each reader ends with everything, once."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from redis.asyncio import Redis
from websockets.exceptions import ConnectionClosed

from gateway.store.channels import ChannelStore
from tests.fanout.conftest import StartNode
from tests.fanout.support import Node, publish, sse, ws
from tests.support.waiting import eventually

CHANNELS = ["open:0", "open:1", "open:2"]
SECONDS = 4.0

pytestmark = pytest.mark.faults


class Reader:
    def __init__(self, nodes: list[Node], seed: int) -> None:
        self.nodes = nodes
        self.random = random.Random(seed)
        self.seen: list[int] = []
        self.resets = 0
        self.done = asyncio.Event()

    @property
    def started(self) -> bool:
        """Whether it has a first position."""
        raise NotImplementedError

    def until(self) -> float:
        return 10.0 if self.done.is_set() else self.random.uniform(0.05, 0.6)

    async def run(self, last: asyncio.Future[int]) -> None:
        while not last.done() or not self.seen or self.seen[-1] != last.result():
            if last.done():
                self.done.set()
            try:
                async with asyncio.timeout(self.until()):
                    await self.visit(self.random.choice(self.nodes), last)
            except (TimeoutError, ConnectionClosed, OSError, asyncio.IncompleteReadError):
                continue

    async def visit(self, node: Node, last: asyncio.Future[int]) -> None:
        raise NotImplementedError

    def took(self, number: int, last: asyncio.Future[int]) -> bool:
        self.seen.append(number)
        return last.done() and number == last.result()


class StreamReader(Reader):
    cursor = ""

    @property
    def started(self) -> bool:
        return bool(self.cursor)

    async def visit(self, node: Node, last: asyncio.Future[int]) -> None:
        query = "&".join(f"channel={name}" for name in CHANNELS)
        headers = [f"Last-Event-ID: {self.cursor}"] if self.cursor else []
        async with sse(node.port, query, *headers) as client:
            while True:
                block = await client.block()
                self.cursor = client.last_id or self.cursor
                self.resets += block.get("event") == "gateway.reset"
                if block.get("data") and self.took(json.loads(block["data"])["data"], last):
                    return


class SocketReader(Reader):
    position: tuple[str, int] | None = None

    @property
    def started(self) -> bool:
        return self.position is not None

    async def visit(self, node: Node, last: asyncio.Future[int]) -> None:
        async with ws(node) as client:
            asked = {}
            if self.position:
                asked = {"recover": True, "epoch": self.position[0], "offset": self.position[1]}
            reply = (await client.subscribe("open:all", **asked)).get("subscribe")
            if reply is None:
                return
            self.resets += bool(asked) and not reply.get("recovered", False)
            start = self.position[1] if self.position else reply.get("offset", 0)
            self.position = (reply["epoch"], start)
            waiting = reply.get("publications", [])
            while True:
                for pub in waiting:
                    assert pub["offset"] == self.position[1] + 1
                    self.position = (self.position[0], pub["offset"])
                    if self.took(pub["data"]["data"], last):
                        return
                push = (await client.next(10))["push"]
                if "pub" not in push:
                    return
                waiting = [push["pub"]]


async def test_nobody_misses_or_repeats_anything(start: StartNode, channels: ChannelStore, redis: Redis) -> None:
    nodes = [await start(), await start()]
    last: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    readers: list[Reader] = [StreamReader(nodes, seed) for seed in range(4)]
    readers += [SocketReader(nodes, seed) for seed in range(10, 14)]
    chance = random.Random(7)

    async def produce() -> None:
        number = 0
        await eventually(lambda: all(reader.started for reader in readers))
        until = asyncio.get_running_loop().time() + SECONDS
        while asyncio.get_running_loop().time() < until:
            names = chance.sample(CHANNELS, chance.randint(1, 3))
            await publish(channels, *names, "open:all", data=number)
            number += 1
            if chance.random() < 0.004:
                await redis.client_kill_filter(_type="pubsub")
            if chance.random() < 0.01:
                victim = chance.choice(nodes).hub.connections
                for connection in list(victim)[:1]:
                    connection.abort()
        await publish(channels, *CHANNELS, "open:all", data=number)
        last.set_result(number)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(produce())
        for reader in readers:
            group.create_task(reader.run(last))
    for reader in readers:
        first = reader.seen[0]
        assert reader.seen == list(range(first, last.result() + 1)), type(reader).__name__
        assert first < 50
        assert reader.resets == 0
