"""Leaving with a thousand connections: spread out, with hints that spread the return, and without a loss."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway.fanout.options import HubOptions
from gateway.server.run import ServerOptions
from gateway.settings import Settings
from gateway.store.channels import ChannelStore
from tests.fanout.support import Node, SseClient, WsClient, node, publish, sse, ws
from tests.support.waiting import eventually

EACH = 500
DRAIN = 3.0


async def open_all(stack: AsyncExitStack, running: Node) -> tuple[list[WsClient], list[SseClient]]:
    limit = asyncio.Semaphore(50)

    async def socket() -> WsClient:
        async with limit:
            client = WsClient(await connect(running.ws, compression=None, open_timeout=30))
            assert "connect" in await client.connect()
            assert "subscribe" in await client.subscribe("open:a")
            return client

    async def stream() -> SseClient:
        async with limit:
            client = await stack.enter_async_context(sse(running.port, "channel=open:a"))
            await client.block(30)
            return client

    async with asyncio.TaskGroup() as group:
        sockets = [group.create_task(socket()) for _ in range(EACH)]
        streams = [group.create_task(stream()) for _ in range(EACH)]
    return [task.result() for task in sockets], [task.result() for task in streams]


async def gone(client: WsClient) -> tuple[float, int]:
    with pytest.raises(ConnectionClosed) as closed:
        await client.next(30)
    assert closed.value.rcvd is not None
    return time.monotonic(), closed.value.rcvd.code


async def bye(client: SseClient) -> tuple[float, int]:
    while (block := await client.block(30)).get("event") != "gateway.bye":
        pass
    return time.monotonic(), int(block["retry"])


async def test_a_thousand_connections_leave_spread_out(settings: Settings) -> None:
    options = HubOptions(drain=DRAIN, retry=(1.0, 3.0), connect=60)
    async with AsyncExitStack() as stack, node(settings, options) as running:
        sockets, streams = await open_all(stack, running)
        assert len(running.hub.connections) == 2 * EACH
        assert running.server is not None
        began = time.monotonic()
        running.server.stop()
        left, said = await asyncio.gather(
            asyncio.gather(*(gone(client) for client in sockets)), asyncio.gather(*(bye(client) for client in streams))
        )
    assert {code for _, code in left} == {3001}
    times = sorted(at - began for at, _ in (*left, *said))
    # Evenly: a quarter of them each quarter of the time it took, give or take, and it takes what was asked for.
    quarter = (times[-1] - times[0]) / 4
    quarters = [sum(1 for at in times if n * quarter <= at - times[0] <= (n + 1) * quarter) for n in range(4)]
    assert min(quarters) > EACH / 20, quarters
    assert times[-1] > DRAIN / 2
    hints = [hint for _, hint in said]
    assert min(hints) >= 1000
    assert max(hints) <= 3000
    assert len(set(hints)) > EACH / 10
    halves = sum(1 for hint in hints if hint < 2000)
    assert EACH / 4 < halves < EACH * 3 / 4


async def test_a_second_signal_hurries(settings: Settings) -> None:
    options = HubOptions(drain=60, connect=60)
    async with AsyncExitStack() as stack, node(settings, options, ServerOptions(port=0)) as running:
        await stack.enter_async_context(sse(running.port, "channel=open:a"))
        for _ in range(20):
            await stack.enter_async_context(ws(running))
        assert running.server is not None
        running.server.stop()
        await running.server.stopping.wait()
        began = time.monotonic()
        running.server.stop()
        await eventually(lambda: not running.hub.connections)
    assert time.monotonic() - began < 30


async def test_a_drain_under_load_loses_nothing(settings: Settings, channels: ChannelStore) -> None:
    """Subscribers of a node that leaves go on at another, exactly where they were."""
    quick = HubOptions(drain=1.0, retry=(0.01, 0.1))
    done = asyncio.Event()
    published: list[int] = []

    async def produce() -> None:
        while not done.is_set():
            await publish(channels, "open:a", data=len(published))
            published.append(len(published))
            await asyncio.sleep(0.002)

    async with node(settings, quick) as leaving, node(settings, quick) as staying, asyncio.TaskGroup() as group:
        seen: list[list[int]] = [[] for _ in range(60)]
        for number, got in enumerate(seen):
            reader: Callable[[Node, Node, list[int], asyncio.Event], Awaitable[None]]
            reader = read_socket if number % 2 else read_stream
            group.create_task(reader(leaving, staying, got, done))
        await eventually(lambda: len(leaving.hub.connections) == len(seen))
        group.create_task(produce())
        await eventually(lambda: all(got and got[-1] > 50 for got in seen))
        assert leaving.server is not None
        leaving.server.stop()
        await eventually(lambda: len(staying.hub.connections) == len(seen), 20)
        mark = len(published) + 50
        await eventually(lambda: all(got[-1] > mark for got in seen), 20)
        done.set()
        for connection in list(staying.hub.connections):
            connection.abort()
    for got in seen:
        assert got == list(range(got[0], got[0] + len(got)))


async def read_socket(leaving: Node, staying: Node, got: list[int], done: asyncio.Event) -> None:
    position: dict[str, object] = {}
    for target in (leaving, staying):
        try:
            async with ws(target) as client:
                reply = (await client.subscribe("open:a", **position))["subscribe"]
                assert bool(position) == reply.get("recovered", False)
                pubs = reply.get("publications", [])
                while True:
                    for pub in pubs:
                        got.append(pub["data"]["data"])
                        position = {"recover": True, "epoch": reply["epoch"], "offset": pub["offset"]}
                    pubs = await client.pubs(1, 30)
        except ConnectionClosed:
            continue
    assert done.is_set()


async def read_stream(leaving: Node, staying: Node, got: list[int], done: asyncio.Event) -> None:
    cursor = ""
    for target in (leaving, staying):
        headers = [f"Last-Event-ID: {cursor}"] if cursor else []
        async with sse(target.port, "channel=open:a", *headers) as stream:
            try:
                while (block := await stream.block(30)).get("event") != "gateway.bye":
                    assert block.get("event") != "gateway.reset"
                    if block.get("data"):
                        got.append(json.loads(block["data"])["data"])
            except (asyncio.IncompleteReadError, ConnectionError):
                assert done.is_set()
            cursor = stream.last_id
