"""`/connection/websocket`: the handshake; everything after it is the hub's."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from gateway.auth.principals import Principal
from gateway.errors import BadRequest, TooManyConnections
from gateway.fanout import codes
from gateway.fanout.commands import Commands
from gateway.fanout.dependencies import Dependencies
from gateway.fanout.origins import caller_of, check_origin, host_of
from gateway.fanout.seats import Seat
from gateway.fanout.sinks import AsgiWebSocketSink
from gateway.fanout.websocket import WebSocketConnection
from gateway.fanout.wire import Wire
from gateway.server.handover import EXTENSION

SUBPROTOCOL = "centrifuge-json"
_BINARY = "centrifuge-protobuf"


class WebSocketEndpoint:
    """Answers handshakes.

    What is temporary is told by a close code after the handshake: a browser's script cannot tell a refused handshake
    from a network without WebSockets, and a client that has other transports would leave this one for good.
    """

    def __init__(self, deps: Dependencies, commands: Commands) -> None:
        self._deps = deps
        self._commands = commands

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a handshake.

        Raises:
            Forbidden: the browser's origin is not allowed.
            BadRequest: only the binary protocol was offered.
        """
        settings, asking = self._deps.settings, HTTPConnection(scope)
        check_origin(asking.headers, settings)
        offered = scope.get("subprotocols", [])
        if _BINARY in offered and SUBPROTOCOL not in offered:
            raise BadRequest("Only the JSON protocol is spoken here")
        principal = await caller_of(asking, settings, self._deps.authenticator)
        await receive()  # websocket.connect
        accept: Message = {
            "type": "websocket.accept",
            "subprotocol": SUBPROTOCOL if SUBPROTOCOL in offered else None,
            "headers": [],
        }
        if self._deps.hub.draining:
            await _turn_away(accept, send, codes.SHUTDOWN)
            return
        try:
            seat = self._deps.seats.seat(host_of(asking), principal.tenant if principal else "")
        except TooManyConnections:
            await _turn_away(accept, send, codes.TOO_MANY)
            return
        with seat:
            await self._accept(seat, principal, accept, scope, receive, send)

    async def _accept(
        self, seat: Seat, principal: Principal | None, message: Message, scope: Scope, receive: Receive, send: Send
    ) -> None:
        hub = self._deps.hub
        taken: list[bool] = []

        def take(transport: asyncio.Transport, registry: set[Any]) -> WebSocketConnection:
            taken.append(True)
            connection = WebSocketConnection(hub, self._commands, principal, wire=Wire.FRAME)
            connection.keep(seat)
            connection.start(transport, registry)
            return connection

        if EXTENSION in scope.get("extensions", {}):
            message[EXTENSION] = take
        await send(message)
        if not taken:
            sink = AsgiWebSocketSink()
            connection = WebSocketConnection(hub, self._commands, principal, wire=Wire.TEXT)
            connection.keep(seat)
            connection.start(sink)
            await sink.run(connection, receive, send)


async def _turn_away(accept: Message, send: Send, told: codes.Disconnect) -> None:
    await send(accept)
    await send({"type": "websocket.close", "code": told.code, "reason": told.reason})
