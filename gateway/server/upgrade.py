"""A WebSocket handshake between its request and its answer, for connections that are given away (see `handover`)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import structlog
from uvicorn.protocols.utils import ClientDisconnected

from gateway.server.handover import EXTENSION, GONE, Factory, give
from gateway.server.handshake import answer, request
from gateway.server.websocket import MAX_EARLY, WebSocketProtocol

if TYPE_CHECKING:
    from gateway.server.http import HttpProtocol

log = structlog.get_logger(__name__)


class Upgrade(asyncio.Protocol):
    """Runs the application for a handshake the HTTP parser has read (see `handshake.usual_key`).

    Most are given away at once, so they need neither uvicorn's protocol nor a parser of `websockets`, which cost as
    much as all the rest here. Whatever else happens makes them after all, and they go on from there.
    """

    __slots__ = ("_asked", "_early", "_full", "_host", "_key", "_scope", "_transport", "_uvicorn")

    def __init__(self, host: HttpProtocol, key: bytes) -> None:
        self._host, self._key = host, key
        self._transport: asyncio.Transport = host.transport
        self._early = bytearray()
        self._full, self._asked = host.flow.write_paused, False
        self._scope = _scope_of(host)
        self._uvicorn: WebSocketProtocol | None = None

    def begin(self) -> None:
        """Take the place of the HTTP protocol, and ask the application."""
        host = self._host
        host.connections.discard(host)
        host.connections.add(self)  # type: ignore[arg-type] # `shutdown` is all that is asked of it
        self._transport.set_protocol(self)
        task = host.loop.create_task(self._run())
        task.add_done_callback(host.tasks.discard)
        host.tasks.add(task)

    async def _run(self) -> None:
        try:
            await self._host.app(self._scope, self._receive, self._send)
        except ClientDisconnected:
            pass
        except Exception:
            log.exception("server.application_failed")
        finally:
            if self._transport is not GONE:
                self._fall_back().finish()

    async def _receive(self) -> Any:  # noqa: ANN401 - ASGI
        if not self._asked:
            self._asked = True
            return {"type": "websocket.connect"}
        return await self._fall_back().receive()

    async def _send(self, message: Any) -> None:  # noqa: ANN401 - ASGI
        factory = message.get(EXTENSION)
        if factory is None or self._uvicorn is not None or self._transport.is_closing():
            await self._fall_back().send(message)
        else:
            self._give(factory, message)

    def _give(self, factory: Factory, message: Any) -> None:  # noqa: ANN401 - as above
        host, transport = self._host, self._transport
        transport.write(
            answer(self._key, message.get("subprotocol"), host.server_state.default_headers, message.get("headers", ()))
        )
        self._transport = GONE
        guest = give(transport, host.connections, self, factory, full=self._full)
        if self._early:
            guest.data_received(bytes(self._early))

    def _fall_back(self) -> WebSocketProtocol:
        """Let uvicorn go on with the handshake."""
        if self._uvicorn is None:
            host = self._host
            self._uvicorn = WebSocketProtocol(
                config=host.config, server_state=host.server_state, app_state=host.app_state
            )
            host.connections.discard(self)
            self._uvicorn.resume(host, self._scope, request("GET", host.url, host.headers), self._early)
            if self._full:
                self._uvicorn.pause_writing()
            if not self._transport.is_closing():
                self._transport.set_protocol(self._uvicorn)
        return self._uvicorn

    # What the transport and the server call.

    def data_received(self, data: bytes) -> None:
        """Keep what comes before the answer."""
        self._early += data
        if len(self._early) > MAX_EARLY:
            self._transport.abort()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._full = True

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._full = False

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._fall_back().connection_lost(exc)

    def shutdown(self) -> None:
        """The server stops."""
        self._fall_back().shutdown()


def _scope_of(host: HttpProtocol) -> dict[str, Any]:
    raw_path, _, query = host.url.partition(b"?")
    path = raw_path.decode("ascii")
    offered = [value.decode("latin-1") for name, value in host.headers if name == b"sec-websocket-protocol"]
    return {
        "type": "websocket",
        "asgi": {"version": host.asgi_version, "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "wss" if host.scheme == "https" else "ws",
        "server": host.server,
        "client": host.client,
        "root_path": host.root_path,
        "path": host.root_path + (unquote(path) if "%" in path else path),
        "raw_path": host.root_path.encode("ascii") + raw_path,
        "query_string": query,
        "headers": host.headers,
        "subprotocols": [part.strip() for value in offered for part in value.split(",")],
        "state": host.app_state.copy(),
        "extensions": {"websocket.http.response": {}, EXTENSION: {}},
    }
