"""uvicorn's WebSocket protocol, with the handover of accepted connections (see `handover`)."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from gateway.server.handover import EXTENSION, GONE, Factory, Guest, give

MAX_EARLY = 64 * 1024  # bytes a client may send before it has been accepted


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Answers the handshake like uvicorn, and can give the accepted connection away.

    A client may not speak before it is accepted (RFC 6455 section 4.1). What arrives all the same is kept raw,
    so that whoever reads the connection afterwards gets every byte in order.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*args, **kwargs)
        self._early = bytearray()

    def data_received(self, data: bytes) -> None:
        """Parse, except between the handshake and its answer."""
        if not self.handshake_initiated or self.handshake_complete:
            super().data_received(data)
            return
        self._early += data
        if len(self._early) > MAX_EARLY:
            self.transport.abort()

    def resume(self, host: HttpToolsProtocol, scope: Any, asked: bytes, early: bytearray) -> None:  # noqa: ANN401 - ASGI
        """Take over from `upgrade.Upgrade`, whose application runs: `asked` is a usual handshake, as bytes."""
        self.connections.add(self)
        self.scope = scope
        self.transport = host.transport
        self.server, self.client = host.server, host.client
        self.scheme = "wss" if host.scheme == "https" else "ws"
        self.handshake_initiated, self._early = True, early
        self.conn.receive_data(asked)
        for event in self.conn.events_received():
            if isinstance(event, Request):
                self.request = event
                self.response = self.conn.accept(event)

    def finish(self) -> None:
        """Leave nothing open: the application has returned."""
        if not self.handshake_complete:
            self.send_500_response()
        if self.close_timer is None:
            self.transport.close()

    def handle_connect(self, event: Any) -> None:  # noqa: ANN401 - uvicorn's own
        """Offer the extension; the application runs in the next turn of the loop."""
        super().handle_connect(event)
        if self.response.status_code == _SWITCHING:
            self.scope.setdefault("extensions", {})[EXTENSION] = {}

    async def send(self, message: Any) -> None:  # noqa: ANN401 - ASGI
        """Send; after an accept with a factory, give the connection away."""
        factory = message.pop(EXTENSION, None)
        waiting = not self.handshake_complete
        await super().send(message)
        if not waiting or not self.handshake_complete or self.disconnected or self.close_sent:
            return
        early, self._early = bytes(self._early), bytearray()
        if factory is not None and not self.transport.is_closing():
            self._continue(self._give(factory), early)
        elif early:
            super().data_received(early)

    def _give(self, factory: Factory) -> Guest:
        transport, self.transport = self.transport, GONE
        self.stop_keepalive()
        guest = give(transport, self.connections, self, factory, full=not self.writable.is_set())
        if self.read_paused:
            transport.resume_reading()
        return guest

    def _continue(self, guest: Guest, early: bytes) -> None:
        if early:
            guest.data_received(early)


_SWITCHING = 101
