"""An echo on the production path: handshake, handover, `frames.plain`, `FrameReader`, UTF-8, pings, closing."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send

from gateway.fanout.hub import Hub
from gateway.fanout.limits import Verdict
from gateway.fanout.websocket import WebSocketConnection
from gateway.fanout.wire import Wire
from gateway.server.handover import EXTENSION


class EchoConnection(WebSocketConnection):
    """What differs from a client of the hub: every message comes back, and large ones are welcome."""

    __slots__ = ()
    limit = 32 * 1024 * 1024

    def take(self, message: bytes) -> None:
        self.send(message)

    def charge(self, count: int) -> Verdict:
        del count  # some cases are floods
        return Verdict.FINE


class Echo:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        await receive()

        def take(transport: asyncio.Transport, registry: set[Any]) -> EchoConnection:
            connection = EchoConnection(self._hub, None, None, wire=Wire.FRAME)  # type: ignore[arg-type] # no commands
            connection.connected, connection.expires = True, inf
            connection.start(transport, registry)
            return connection

        await send({"type": "websocket.accept", "subprotocol": None, "headers": [], EXTENSION: take})


def echo_route(hub: Hub) -> WebSocketRoute:
    """The echo at `/`."""
    return WebSocketRoute("/", Echo(hub))
