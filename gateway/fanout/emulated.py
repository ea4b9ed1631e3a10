"""A Centrifuge client without a WebSocket: its commands come by requests, its replies go down one long answer."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

from gateway.auth.principals import Principal
from gateway.fanout import codes, replies, sse
from gateway.fanout.connection import Sink
from gateway.fanout.websocket import WebSocketConnection
from gateway.fanout.wire import Wire

if TYPE_CHECKING:
    from gateway.fanout.emulation import Emulation

_SECRET_BYTES = 24  # 192 bits: who knows a session may speak for it


class EmulatedConnection(WebSocketConnection):
    """One client over `http_stream` or `sse`; what a WebSocket's frames do is done by lines or blocks.

    Pings go out as ever, and nobody answers them: each pong would cost a request. A client that has gone is noticed
    when its connection breaks or its buffer stays full.
    """

    __slots__ = ("_emulation", "_first", "_secret")

    def __init__(self, emulation: Emulation, principal: Principal | None, first: bytes, *, wire: Wire) -> None:
        """`first` is what the client sent along: its `connect`."""
        super().__init__(emulation.hub, emulation.commands, principal, wire=wire)
        self._emulation = emulation
        self._first = first
        self._secret = secrets.token_urlsafe(_SECRET_BYTES)

    @property
    def secret(self) -> str:
        """See `Session`."""
        return self._secret

    @property
    def pongs(self) -> bool:
        """See `Session`."""
        return False

    def start(self, sink: Sink, registry: set[Any] | None = None) -> None:
        """See `Connection`."""
        super().start(sink, registry)
        self._emulation.enter(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the commands that came along."""
        del transport
        first, self._first = self._first, b""
        self.receive(first)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `Connection`."""
        super().connection_lost(exc)
        self._emulation.leave(self)

    # Reading.

    def data_received(self, data: bytes) -> None:
        """Ignore what follows the request on its connection."""

    def receive(self, message: bytes) -> None:
        """Take the commands of one request."""
        super().receive(message)
        if self.talk is not None and self.talk.full(self.hub.options.backlog):
            self.close(codes.TOO_MANY)  # there is no reading less of a client that sends requests

    def regulate(self) -> None:
        """Read on in any case: the answer's connection says nothing but that it ends."""

    # Writing.

    def send(self, message: bytes) -> None:
        """Write one message."""
        self.sink.write(message + b"\n" if self.wire is Wire.LINE else sse.lines(message))

    def say_goodbye(self, told: codes.Disconnect) -> None:
        """Push what a close frame would say, and end the answer."""
        self.send(replies.disconnect_push(told))
        self.sink.close()

    # Time.

    def on_deadline(self, now: float) -> float | None:
        """See `WebSocketConnection`; silence is no fault here."""
        following = super().on_deadline(now)
        self._awaiting_pong = False
        return following
