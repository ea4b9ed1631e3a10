"""uvicorn's WebSocket protocol, with the handover of accepted connections (see `handover`)."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from gateway.server.handover import EXTENSION, GONE, Factory, Guest, give
from gateway.server.handshake import answer, request

MAX_EARLY = 64 * 1024  # bytes a client may send before it has been accepted


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Answers the handshake like uvicorn, and can give the accepted connection away.

    A client may not speak before it is accepted (RFC 6455 section 4.1). What arrives all the same is kept raw,
    so that whoever reads the connection afterwards gets every byte in order.
    """

    _key: bytes | None = None  # of a usual handshake that uvicorn has not been told of
    _unread = b""  # the request, should uvicorn have to answer it

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

    def begin(self, key: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Start the application for a handshake the HTTP parser has read (see `handshake.usual_key`).

        Most are given away, so neither uvicorn nor `websockets` need to read the request a second time. When one is
        not, they do.
        """
        self._key, self._unread = key, request("GET", target, headers)
        self.handshake_initiated = True
        raw_path, _, query = target.partition(b"?")
        offered = [value.decode("latin-1") for name, value in headers if name == b"sec-websocket-protocol"]
        self.scope = {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": self.scheme,
            "server": self.server,
            "client": self.client,
            "root_path": self.root_path,
            "path": self.root_path + unquote(raw_path.decode("ascii")),
            "raw_path": self.root_path.encode("ascii") + raw_path,
            "query_string": query,
            "headers": headers,
            "subprotocols": [part.strip() for value in offered for part in value.split(",")],
            "state": self.app_state.copy(),
            "extensions": {"websocket.http.response": {}, EXTENSION: {}},
        }
        self.queue.put_nowait({"type": "websocket.connect"})
        task = self.loop.create_task(self.run_asgi())
        task.add_done_callback(self.on_task_complete)
        self.tasks.add(task)

    def handle_connect(self, event: Any) -> None:  # noqa: ANN401 - uvicorn's own
        """Offer the extension; the application runs in the next turn of the loop."""
        super().handle_connect(event)
        if self.response.status_code == _SWITCHING:
            self.scope.setdefault("extensions", {})[EXTENSION] = {}

    async def send(self, message: Any) -> None:  # noqa: ANN401 - ASGI
        """Send; after an accept with a factory, give the connection away."""
        factory = message.pop(EXTENSION, None)
        waiting = not self.handshake_complete
        if self._key is not None and factory is not None and not (self.disconnected or self.transport.is_closing()):
            self._accept(self._key, message)
        else:
            self._tell_uvicorn()
            await super().send(message)
        if not waiting or not self.handshake_complete or self.disconnected or self.close_sent:
            return
        early, self._early = bytes(self._early), bytearray()
        if factory is not None and not self.transport.is_closing():
            self._continue(self._give(factory), early)
        elif early:
            super().data_received(early)

    def _accept(self, key: bytes, message: Any) -> None:  # noqa: ANN401 - ASGI
        """Answer ourselves: the connection is given away at once."""
        self.transport.write(answer(key, message.get("subprotocol"), self.default_headers, message.get("headers", ())))
        self.handshake_complete = True
        self._key, self._unread = None, b""

    def _tell_uvicorn(self) -> None:
        """Let uvicorn's machinery read the request, which has a usual handshake, when it is to answer it."""
        if self._key is None:
            return
        self.conn.receive_data(self._unread)
        self._key, self._unread = None, b""
        for event in self.conn.events_received():
            if isinstance(event, Request):
                self.request = event
                self.response = self.conn.accept(event)

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
