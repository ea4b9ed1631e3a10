"""Publishes events at a rate, as a process of its own on the load's core; prints how many and how long it took.

    python -m tests.benchmarks.publisher '{"how": "record", "url": …, "channels": 1, "rate": 60, "count": 300}'

`how`: `record` runs our publish script on Redis, as every gateway and worker does; `live` sends Redis what that script
would publish, without recording it (for rates Redis itself could not record); `redis` is a plain PUBLISH for the plain
peer; `nchan` posts to nchan's publish endpoint over pipelined connections. Rate 0: as fast as it goes.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from gateway.events import draft
from gateway.settings import Settings
from gateway.store.channels import ChannelStore, Outgoing
from gateway.store.redis import Store

TYPE = "bench.tick"
SOURCE = "/b"
TENANT = "default"
WINDOW = 512  # commands or requests that may be unanswered
AT_ONCE = 64


def marker() -> bytes:
    return b'"TS=%d;"' % time.time_ns()


def event(number: int) -> bytes:
    """Return an event as our store would make it, byte for byte but for the time, for peers without a store."""
    made = draft(TYPE, marker(), id_=f"evt_{number:026d}", source=SOURCE)
    stamp = f',"time":"2026-01-01T00:00:00.000Z","sequence":"{number:016d}"'
    return (made.head + stamp + made.tail).encode()


def due(rate: float, count: int) -> Iterator[range]:
    """Yield the numbers of the events that are due, sleeping in between."""
    began, done = time.monotonic(), 0
    while done < count:
        if rate:
            time.sleep(max(0.0, began + (done + 1) / rate - time.monotonic()))
            upto = min(count, max(done + 1, int((time.monotonic() - began) * rate)))
        else:
            upto = min(count, done + AT_ONCE)
        yield range(done, upto)
        done = upto


async def record(job: dict[str, Any]) -> None:
    """Run the real script, in batches of what is due."""
    settings = Settings(redis_url=job["url"])
    async with Store.open(settings) as store:
        channels = ChannelStore(store, settings)
        for numbers in due(job["rate"], job["count"]):
            events = [
                Outgoing(
                    draft(TYPE, marker(), id_=f"evt_{number:026d}", source=SOURCE),
                    [f"bench.{number % job['channels']}"],
                )
                for number in numbers
            ]
            await channels.publish_many(TENANT, events)


class Pipe:
    """Pipelined requests on a blocking socket; `answer` is how the answer to one begins."""

    def __init__(self, port: int, answer: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._answer = answer
        self._tail = b""
        self.open = 0

    def send(self, requests: list[bytes]) -> None:
        self._socket.sendall(b"".join(requests))
        self.open += len(requests)
        while self.open > WINDOW:
            self.read()

    def read(self) -> None:
        """Take some answers."""
        data = self._tail + self._socket.recv(65536)
        assert data, "the server closed the connection"
        self.open -= data.count(self._answer)
        self._tail = data[-(len(self._answer) - 1) :] if len(self._answer) > 1 else b""

    def drain(self) -> None:
        while self.open:
            self.read()


def command(channel: bytes, payload: bytes) -> bytes:
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(channel), channel, len(payload), payload)


async def live(job: dict[str, Any]) -> None:
    """Publish what the script would, continuing each channel's offsets and the tenant's sequence."""
    settings = Settings(redis_url=job["url"])
    async with Store.open(settings) as store:
        channels = ChannelStore(store, settings)
        names = [f"bench.{number}" for number in range(job["channels"])]
        live_names = [channels.live_channel(TENANT, name).encode() for name in names]
        positions = []
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            positions += await asyncio.gather(*(channels.position(TENANT, name) for name in part))
        _, sequence = await channels.head(TENANT)

    def request(number: int) -> bytes:
        index, turn = number % len(names), number // len(names) + 1
        epoch, offset = positions[index]
        header = b"1 %b %d %d 0 %b - -\n" % (
            epoch.encode(),
            offset + turn,
            sequence + number + 1,
            TYPE.encode(),
        )
        return command(live_names[index], header + event(number))

    pump(job, [Pipe(_port(job["url"]), b":")], request)


def redis(job: dict[str, Any]) -> None:
    """Publish to the plain peer."""

    def request(number: int) -> bytes:
        return command(b"plain:bench.%d" % (number % job["channels"]), event(number))

    pump(job, [Pipe(_port(job["url"]), b":")], request)


def nchan(job: dict[str, Any]) -> None:
    """Post to nchan over four connections."""

    def request(number: int) -> bytes:
        body = event(number)
        head = b"POST /pub/bench.%d HTTP/1.1\r\nHost: b\r\nContent-Length: %d\r\n\r\n"
        return head % (number % job["channels"], len(body)) + body

    pump(job, [Pipe(job["port"], b"HTTP/1.1 20") for _ in range(4)], request)


def pump(job: dict[str, Any], pipes: list[Pipe], request: Callable[[int], bytes]) -> None:
    """Send what is due, the pipes taking turns."""
    for turn, numbers in enumerate(due(job["rate"], job["count"])):
        pipes[turn % len(pipes)].send([request(number) for number in numbers])
    for pipe in pipes:
        pipe.drain()


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].split("/")[0])


def main() -> None:
    job = json.loads(sys.argv[1])
    began = time.monotonic()
    how = {"record": record, "live": live}.get(job["how"])
    if how is not None:
        asyncio.run(how(job))
    else:
        {"redis": redis, "nchan": nchan}[job["how"]](job)
    print(json.dumps({"published": job["count"], "seconds": round(time.monotonic() - began, 3)}))  # noqa: T201 - its result


if __name__ == "__main__":
    main()
