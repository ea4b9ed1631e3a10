"""Connections that only look alive: they stay open and swallow what is sent, both ways. What was accepted ends once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.faults.jobs import LONG, SHORT, Servers, job_scene
from tests.support.proxy import TcpProxy

RATE = 60
HEARTBEAT = 2  # seconds; RabbitMQ and our side give a silent peer up after two or three of them
LINKS = ("REDIS", "AMQP")


def through(servers: Servers, proxies: dict[str, TcpProxy]) -> dict[str, str]:
    """The ways to both servers, for a process: through the proxies there are."""
    urls = {"REDIS": servers.redis, "AMQP": f"{servers.amqp}?heartbeat={HEARTBEAT}"}
    return {f"GATEWAY_{link}_URL": proxies[link].url(url) if link in proxies else url for link, url in urls.items()}


@pytest.mark.parametrize(
    ("whose", "links", "count", "times"),
    [pytest.param(whose, LINKS, 200, 1, marks=SHORT) for whose in ("worker", "gateway")]
    + [pytest.param(whose, (link,), 2000, 3, marks=LONG) for whose in ("worker", "gateway") for link in LINKS],
)
async def test_half_open_connections(
    servers: Servers, tmp_path: Path, whose: str, links: tuple[str, ...], count: int, times: int
) -> None:
    async with AsyncExitStack() as stack:
        ports = {"REDIS": servers.redis_port, "AMQP": servers.amqp_port}
        proxies = {link: await stack.enter_async_context(TcpProxy(ports[link])) for link in links}
        changed = through(servers, proxies)
        gateway = changed if whose == "gateway" else {}
        here = await stack.enter_async_context(job_scene(servers, tmp_path, workers=1, gateway=gateway))
        await here.worker(**(changed if whose == "worker" else {}))
        async with here.load.running(count, RATE, seconds=0.2):
            for number in range(times):
                await here.load.reached((number + 1) * count // (times + 2))
                for proxy in proxies.values():
                    assert proxy.swallow()
        await here.finish(f"half-open: {whose} and {', '.join(links)}")


@pytest.mark.parametrize("whose", [pytest.param(whose, marks=LONG) for whose in ("worker", "gateway")])
async def test_a_network_that_stands_still_and_goes_on(servers: Servers, tmp_path: Path, whose: str) -> None:
    """Nothing passes for a while, new connections neither, and then everything that was sent arrives late."""
    async with TcpProxy(servers.redis_port) as redis, TcpProxy(servers.amqp_port) as amqp:
        changed = through(servers, {"REDIS": redis, "AMQP": amqp})
        async with job_scene(servers, tmp_path, workers=1, gateway=changed if whose == "gateway" else {}) as here:
            await here.worker(**(changed if whose == "worker" else {}))
            async with here.load.running(3000, RATE, seconds=0.2):
                for number in range(4):
                    await here.load.reached((number + 1) * 500)
                    for proxy in (redis, amqp):
                        proxy.stall()
                    await asyncio.sleep(12)  # longer than every deadline
                    for proxy in (redis, amqp):
                        proxy.resume()
            await here.finish(f"a network that stood still: {whose}")
