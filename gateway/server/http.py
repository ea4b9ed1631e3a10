"""uvicorn's HTTP protocol, with the handover of server-sent event streams (see `handover`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import HEADER_VALUE_RE, STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_client_addr

from gateway.server.admission import Admission, TurnAway
from gateway.server.handover import EXTENSION, GONE, Factory, give
from gateway.server.handshake import usual_key
from gateway.server.heads import MAX_BYTES, Heads
from gateway.server.upgrade import Upgrade

log = structlog.get_logger(__name__)

MAX_HELD = 64 * 1024  # bytes of a connection that waits to be admitted; after that it is not read
MAX_PIPELINE = 16  # requests that may wait behind the one being answered; browsers send none

_INVALID = "Invalid HTTP request received."
_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_OWN = frozenset({b"connection", b"transfer-encoding", b"content-length", b"keep-alive"})


class HttpProtocol(HttpToolsProtocol):
    """Answers HTTP like uvicorn, and can give the connection of a streaming answer away."""

    _running: RequestResponseCycle | None = None
    _held: bytearray | None = None  # what came before it was admitted
    _asking = False  # in the middle of a request head
    _head_bytes = 0
    _inside = False  # in the middle of a request, head or body
    _others = _behind = False  # the chunk holds bytes of another request; the newest head came behind such bytes

    def __init__(self, *args: Any, admission: Admission | None = None, heads: Heads, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*args, **kwargs)
        self._admission = admission  # None once it is in
        self._heads = heads

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Expect a request."""
        super().connection_made(transport)
        self._heads.wait(self)

    def data_received(self, data: bytes) -> None:
        """Parse, once admitted."""
        if self._admission is None:
            self._parse(data)
        elif self._held is None:
            self._held = bytearray(data)
            self._heads.came(self)  # from here on it waits for us
            self._admission.enter(self, data)
        else:
            self._held += data
            if len(self._held) > MAX_HELD:
                self.flow.pause_reading()

    @property
    def gone(self) -> bool:
        """See `admission.Newcomer`."""
        return bool(self.transport.is_closing())

    def admit(self) -> None:
        """See `admission.Newcomer`."""
        held, self._held, self._admission = self._held, None, None
        self.flow.resume_reading()
        if held and not self.gone:
            self._parse(bytes(held))

    def refuse(self, turn_away: TurnAway, retry: float) -> None:
        """See `admission.Newcomer`."""
        held, self._held = self._held, bytearray()  # whatever follows is not looked at
        self.transport.write(turn_away(bytes(held or b""), retry))
        self.transport.close()

    def _parse(self, data: bytes) -> None:
        """As uvicorn's, except for the bounds, and that bytes behind an upgrade request are not lost."""
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return  # refused; what else it says does not matter
        self._others = self._inside
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
            self._refuse(None)
        else:
            self._measure(len(data))

    def _measure(self, size: int) -> None:
        """Bound a head that is not complete in size, and in time unless an answer is under way."""
        if self._answered():
            self._heads.wait(self)
        if self._asking:
            # The parser does not say where in a chunk a head begins. Behind another request it is counted from the
            # next chunk on, so that it may be one chunk too large, but a body is never taken for a head.
            self._head_bytes += 0 if self._behind else size
            self._behind = False
            if self._head_bytes > MAX_BYTES:
                self._refuse(_TOO_LARGE)

    def _answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, answer: bytes | None) -> None:
        """Answer (None: 400) and close; while another request is being answered there is nothing left to say."""
        cycle = self._running
        mine = cycle is self.cycle and cycle is not None and cycle.more_body and not cycle.response_started
        if not (mine or self._answered()):
            self.transport.abort()
            return
        if cycle is not None:
            cycle.disconnected = True
        if answer is None:
            self.send_400_response(_INVALID)
        else:
            self.transport.write(answer)
            self.transport.close()

    def too_late(self) -> None:
        """See `heads.Asker`. Silence is answered with silence, half a request with 408."""
        if not self._answered():
            return  # `on_response_complete` asks again
        if self._asking:
            self._refuse(_TIMEOUT)
        else:
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._asking, self._head_bytes = True, 0
        self._behind, self._others, self._inside = self._others, True, True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End a head; a pipeline that is too long makes the parser fail."""
        if len(self.pipeline) >= MAX_PIPELINE:
            raise ValueError("too many pipelined requests")
        self._asking = False
        self._heads.came(self)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request."""
        self._inside = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on, and expect the rest of a head that began meanwhile."""
        super().on_response_complete()
        if self._asking and self._answered():
            self._heads.wait(self)

    def handle_websocket_upgrade(self) -> None:
        """Hand a usual handshake on as it was parsed; uvicorn would write it down and have it read again."""
        key = usual_key(self.scope["method"], self.scope["http_version"], self.headers)
        if key is None:
            super().handle_websocket_upgrade()
            return
        Upgrade(self, key).begin()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 - uvicorn's union of ASGI types
        self._running = cycle
        super()._start_asgi_task(cycle, _Offer(self, cycle, app))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that runs; uvicorn tells the newest, which may be waiting behind it."""
        self._heads.came(self)
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
