"""Subscribers as strangers would write them: SSE by httpx-sse, WebSocket by `websockets` and the protocol's JSON."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import jwt
from httpx_sse import ServerSentEvent, aconnect_sse
from websockets.asyncio.client import ClientConnection, connect

from tests.e2e.stack import SECRET

Event = dict[str, Any]
Stop = Callable[[Event], bool]
LIMIT = 30.0


def token(subject: str, *, secret: str = SECRET, ttl: float = 3600, **claims: object) -> str:
    """A subscriber token as an application would sign it."""
    return jwt.encode({"sub": subject, "exp": int(time.time() + ttl), **claims}, secret, algorithm="HS256")


async def read_sse(
    url: str, channels: list[str], credential: str, stop: Stop, last_event_id: str | None = None
) -> tuple[list[Event], str]:
    """Read events until `stop` says so; returns them and the cursor to go on from."""
    headers = {"Authorization": f"Bearer {credential}"}
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    events: list[Event] = []
    cursor = last_event_id or ""
    async with (
        asyncio.timeout(LIMIT),
        httpx.AsyncClient(base_url=url, headers=headers, timeout=LIMIT) as client,
        aconnect_sse(client, "GET", "/v1/stream", params={"channel": channels}) as source,
    ):
        source.response.raise_for_status()
        async for block in source.aiter_sse():
            cursor = block.id or cursor
            event = _event(block)
            if event is None:
                continue
            events.append(event)
            if stop(event):
                return events, cursor
    raise AssertionError(f"the stream ended after {[event['type'] for event in events]}")


def _event(block: ServerSentEvent) -> Event | None:
    if not block.data or block.event.startswith("gateway."):
        assert block.event != "gateway.reset", block.data
        return None
    event: Event = json.loads(block.data)
    assert block.event == event["type"]
    return event


class Socket:
    """A WebSocket that speaks the client protocol, with nothing hidden."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self._id = 0
        self.pushes: list[dict[str, Any]] = []

    async def call(self, **command: object) -> dict[str, Any]:
        """Send one command and return its reply; pushes that come before it are kept."""
        self._id += 1
        await self.connection.send(json.dumps({"id": self._id, **command}))
        while True:
            for message in await self._messages():
                if message.get("id") == self._id:
                    return message
                self._keep(message)

    async def publications(self, stop: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Read publications until `stop` says so."""
        found: list[dict[str, Any]] = []
        while True:
            for push in self.pushes:
                if "pub" in push:
                    found.append(push["pub"])
                    if stop(push["pub"]):
                        return found
            self.pushes.clear()
            for message in await self._messages():
                self._keep(message)

    def _keep(self, message: dict[str, Any]) -> None:
        if "push" in message:
            self.pushes.append(message["push"])

    async def _messages(self) -> list[dict[str, Any]]:
        async with asyncio.timeout(LIMIT):
            text = await self.connection.recv()
        messages = [json.loads(line) for line in str(text).split("\n")]
        if {} in messages:
            await self.connection.send("{}")
        return messages


@asynccontextmanager
async def socket(url: str, credential: str) -> AsyncIterator[Socket]:
    """Connect and send `connect`."""
    async with connect(url.replace("http", "ws", 1) + "/connection/websocket") as connection:
        opened = Socket(connection)
        reply = await opened.call(connect={"token": credential})
        assert "connect" in reply, reply
        yield opened


async def together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run at once; the first failure ends all."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
    return [task.result() for task in tasks]
