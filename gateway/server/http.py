"""uvicorn's HTTP protocol, with the handover of server-sent event streams (see `handover`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import HEADER_VALUE_RE, STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_client_addr

from gateway.server.handover import EXTENSION, GONE, Factory, give
from gateway.server.handshake import usual_key
from gateway.server.websocket import WebSocketProtocol

log = structlog.get_logger(__name__)

_INVALID = "Invalid HTTP request received."
_OWN = frozenset({b"connection", b"transfer-encoding", b"content-length", b"keep-alive"})


class HttpProtocol(HttpToolsProtocol):
    """Answers HTTP like uvicorn, and can give the connection of a streaming answer away."""

    _running: RequestResponseCycle | None = None

    def data_received(self, data: bytes) -> None:
        """Parse. As uvicorn's, except that bytes behind an upgrade request are not lost."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._should_upgrade():
                self._unsupported_upgrade_warning()
                return
            transport = self.transport
            self.handle_websocket_upgrade()
            rest = data[upgrade.args[0] :]
            if rest:
                transport.get_protocol().data_received(rest)  # type: ignore[attr-defined] # the new one
        except httptools.HttpParserError:
            self.logger.warning(_INVALID)
            self.send_400_response(_INVALID)

    def handle_websocket_upgrade(self) -> None:
        """Hand a usual handshake on as it was parsed; uvicorn would write it down and have it read again."""
        key = usual_key(self.scope["method"], self.scope["http_version"], self.headers)
        if key is None:
            super().handle_websocket_upgrade()
            return
        self.connections.discard(self)
        protocol = WebSocketProtocol(config=self.config, server_state=self.server_state, app_state=self.app_state)
        protocol.connection_made(self.transport)
        protocol.begin(key, self.url, self.headers)
        self.transport.set_protocol(protocol)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 - uvicorn's union of ASGI types
        self._running = cycle
        super()._start_asgi_task(cycle, _Offer(self, cycle, app))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that runs; uvicorn tells the newest, which may be waiting behind it."""
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def hand_over(self, cycle: RequestResponseCycle, headers: Iterable[tuple[bytes, bytes]], factory: Factory) -> bool:
        """Answer 200 with a body that ends when the connection does, and give the connection away.

        Close-delimited (RFC 9112 section 6.3), not chunked: what follows the headers is the guest's, byte by
        byte. Refused while anything else is or may be going on on this connection.
        """
        if not self._free(cycle):
            return False
        self.transport.write(_head(self.server_state.default_headers, headers))
        cycle.response_started = cycle.response_complete = True
        cycle.keep_alive = False
        cycle.message_event.set()
        self.server_state.total_requests += 1
        self._unset_keepalive_if_required()
        log.info(
            "http.stream", client=get_client_addr(self.scope), path=self.scope["path"], status=200
        )  # the path only: queries may hold tickets
        transport, full = self.transport, self.flow.write_paused
        self.transport = cycle.transport = GONE
        give(transport, self.connections, self, factory, full=full)
        if self.flow.read_paused:
            transport.resume_reading()
        self.parser = None  # type: ignore[assignment] # as uvicorn does when a connection ends
        return True

    def _free(self, cycle: RequestResponseCycle) -> bool:
        return (
            cycle is self.cycle
            and cycle.scope is self.scope  # no byte of a next request has been parsed
            and not self.pipeline
            and not (cycle.response_started or cycle.disconnected or cycle.more_body)
            and not self.transport.is_closing()
        )


class _Offer:
    """The application with the extension in its scope, for one request."""

    __slots__ = ("_app", "_cycle", "_protocol")

    def __init__(self, protocol: HttpProtocol, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 - as above
        self._protocol, self._cycle, self._app = protocol, cycle, app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        scope.setdefault("extensions", {})[EXTENSION] = {}

        async def intercept(message: Any) -> None:  # noqa: ANN401 - ASGI
            factory = message.pop(EXTENSION, None)
            if factory is None or not self._protocol.hand_over(self._cycle, message["headers"], factory):
                await send(message)

        await self._app(scope, receive, intercept)


def _head(*groups: Iterable[tuple[bytes, bytes]]) -> bytes:
    lines = [STATUS_LINE[200]]
    for name, value in (header for group in groups for header in group):
        if HEADER_VALUE_RE.search(value):
            raise RuntimeError("Invalid HTTP header value.")
        if name.lower() not in _OWN:
            lines += [name, b": ", value, b"\r\n"]
    lines.append(b"connection: close\r\n\r\n")
    return b"".join(lines)
