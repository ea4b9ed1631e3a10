"""Waiting for the ends of connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from websockets.exceptions import ConnectionClosed

from tests.fanout.support import Node, SseClient, WsClient, ws
from tests.support.waiting import LIMIT


async def closed(client: WsClient, limit: float = LIMIT) -> tuple[int, str]:
    """Wait for the close."""
    try:
        async with asyncio.timeout(limit):
            while True:
                await client.socket.recv()
    except ConnectionClosed as error:
        return (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")


async def goodbye(stream: SseClient, limit: float = LIMIT) -> str:
    event = await stream.event(limit)
    assert event["event"] == "gateway.bye"
    assert int(event["retry"]) > 0
    assert await stream.reader.read() in (b"", b"0\r\n\r\n")
    return str(json.loads(event["data"])["reason"])


@asynccontextmanager
async def signed_in(node: Node, credential: str) -> AsyncIterator[WsClient]:
    async with ws(node, hello=False) as client:
        assert "connect" in await client.connect(token=credential)
        yield client
