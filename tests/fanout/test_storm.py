"""A reconnect storm slows down; it does not collapse the node, and those who are in do not feel it much."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from redis.asyncio import Redis
from websockets.asyncio.client import connect

from gateway.events import draft, new_id
from gateway.settings import Settings
from gateway.store.channels import ChannelStore
from gateway.store.redis import Store
from tests.e2e.stack import Process, stack
from tests.fanout.support import WsClient
from tests.support.waiting import eventually

COUNT = 2000
CHANNELS = '{"open": {"subscribe": "anyone", "publish": "anyone"}}'
# Without any pacing it is a tenth of the storm's time and more, and twice the memory; with it a seventieth.
PART = 1 / 20  # of the time the storm takes: what eight events of ten may be late by at most
EACH = 16 * 1024  # bytes of memory per newcomer at the worst moment


@contextmanager
def gateway(redis_url: str, folder: Path) -> Iterator[tuple[Process, int]]:
    extra = {"GATEWAY_CHANNELS": CHANNELS, "GATEWAY_ANONYMOUS": "true"}
    with stack(redis_url, "amqp://127.0.0.1:1/", folder, **extra) as running:
        process, url = running.gateway(ready=False)
        port = urlsplit(url).port
        assert port
        yield process, port


async def publish_for_ever(channels: ChannelStore) -> None:
    while True:
        await channels.publish(
            "default", ["open:calm"], draft("a.b", json.dumps(time.time()).encode(), id_=new_id("evt_"), source="/t")
        )
        await asyncio.sleep(0.01)


@asynccontextmanager
async def subscriber(port: int, delays: list[float], offsets: list[int]) -> AsyncIterator[None]:
    async with connect(f"ws://127.0.0.1:{port}/connection/websocket", compression=None) as socket:
        client = WsClient(socket)
        await client.connect()
        await client.subscribe("open:calm")

        async def listen() -> None:
            while True:
                (pub,) = await client.pubs(1, 20)
                delays.append(time.time() - pub["data"]["data"])
                offsets.append(pub["offset"])

        task = asyncio.ensure_future(listen())
        try:
            yield
        finally:
            task.cancel()


def memory(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


async def test_a_reconnect_storm_slows_down_and_the_others_go_on(redis_url: str, redis: Redis, tmp_path: Path) -> None:
    del redis  # emptied
    settings = Settings(redis_url=redis_url)
    delays: list[float] = []
    offsets: list[int] = []
    with gateway(redis_url, tmp_path) as (process, port):
        async with Store.open(settings) as store, subscriber(port, delays, offsets):
            publishing = asyncio.ensure_future(publish_for_ever(ChannelStore(store, settings)))
            await eventually(lambda: len(delays) > 100, 20)
            before = memory(process.pid)
            delays.clear()
            storm = await asyncio.create_subprocess_exec(
                sys.executable,
                str(Path(__file__).with_name("storm.py")),
                str(port),
                str(COUNT),
                stdin=PIPE,
                stdout=PIPE,
            )
            assert storm.stdout is not None
            most = before
            told = asyncio.ensure_future(storm.stdout.readline())
            while not told.done():
                most = max(most, memory(process.pid))
                await asyncio.wait([told], timeout=0.05)
            result, during = json.loads(told.result()), list(delays)
            publishing.cancel()
            await storm.communicate(b"\n")
    tenths = statistics.quantiles(during, n=10)
    # Shown when it fails, and with `-s`.
    sys.stdout.write(f"{result} late by {tenths}, worst {max(during)}, memory {most - before}\n")
    assert result["in"] == COUNT
    assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
    assert tenths[7] < result["seconds"] * PART
    assert most - before < COUNT * EACH
