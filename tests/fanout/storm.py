"""A program: many clients that all want in at the same moment, as after a gateway has died. `storm.py PORT COUNT`.

Each opens a WebSocket, connects and subscribes; whoever is turned away or waits too long comes again after a random
pause, as clients do. When all are in, or time is up, one line of JSON tells how it went; a line on stdin ends it.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

CHANNEL = "open:storm"
PATIENCE = 5.0  # seconds: the JavaScript client's timeout
LIMIT = 60.0
HANDSHAKE = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def frame(message: dict[str, Any]) -> bytes:
    """A masked text frame; the mask is zero, so the text stays itself."""
    payload = json.dumps(message).encode()
    return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload


HELLO = frame({"id": 1, "connect": {}}) + frame({"id": 2, "subscribe": {"channel": CHANNEL}})


class Client(asyncio.Protocol):
    """One try."""

    def __init__(self) -> None:
        self.got = b""
        self.upgraded = False
        self.subscribed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        if self.subscribed.done():
            return
        self.got += data
        if not self.upgraded and b"\r\n\r\n" in self.got:
            self.upgraded = True
            self.transport.write(HELLO)
        if b'"id":2,"subscribe"' in self.got:
            self.got = b""
            self.subscribed.set_result(True)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.subscribed.done():
            self.subscribed.set_result(False)


async def enter(port: int, tries: list[int]) -> asyncio.Transport:
    """Try until it is in."""
    loop = asyncio.get_running_loop()
    while True:
        tries.append(1)
        try:
            transport, client = await loop.create_connection(Client, "127.0.0.1", port)
            async with asyncio.timeout(PATIENCE):
                if await client.subscribed:
                    return transport
        except TimeoutError:
            transport.abort()
        except OSError:
            pass
        await asyncio.sleep(random.uniform(0.5, 2))


async def main(port: int, count: int) -> None:
    tries: list[int] = []
    began = time.monotonic()
    tasks = [asyncio.ensure_future(enter(port, tries)) for _ in range(count)]
    _, pending = await asyncio.wait(tasks, timeout=LIMIT)
    told = {"in": count - len(pending), "tries": len(tries), "seconds": time.monotonic() - began}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
