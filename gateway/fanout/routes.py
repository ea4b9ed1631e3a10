"""Routes of the fan-out: the stream, the WebSocket, and what `publish_routes` adds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from gateway.auth.access import Access
from gateway.auth.authenticator import Authenticator
from gateway.auth.principals import ANONYMOUS, Principal, optional_principal
from gateway.auth.tickets import Tickets, sign_cursor, ticket_hash, verify_cursor
from gateway.errors import BadRequest, Forbidden, GatewayError, Unauthenticated
from gateway.events import MAX_CHANNELS, channel_fault
from gateway.fanout import publish_routes, sse
from gateway.fanout.commands import Commands
from gateway.fanout.hub import Hub
from gateway.fanout.responses import StreamResponse, farewell, head_only
from gateway.fanout.sinks import AsgiWebSocketSink
from gateway.fanout.stream import StreamSpec
from gateway.fanout.websocket import WebSocketConnection
from gateway.fanout.wire import Wire
from gateway.server.handover import EXTENSION
from gateway.settings import Settings
from gateway.store.channels import ChannelStore
from gateway.web.pagination import Query

SUBPROTOCOL = "centrifuge-json"
_BINARY = "centrifuge-protobuf"
_MAX_TOKEN = 8192
_MAX_TYPES = 2000


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What the routes need.

    Attributes:
        settings: anonymous connections, allowed origins, channel rules.
        hub: entered by the time a request arrives.
        channels: the store of channels.
        access: who may do what on which channel.
        authenticator: reads API keys and tokens.
        tickets: opens tickets.
        secret: signs the cursors of ticket streams; called per request, so it may be known late.
    """

    settings: Settings
    hub: Hub
    channels: ChannelStore
    access: Access
    authenticator: Authenticator
    tickets: Tickets
    secret: Callable[[], bytes]


def routes(deps: Dependencies) -> list[BaseRoute]:
    """Return the routes."""
    return [
        Route("/v1/stream", _Streams(deps).open, methods=["GET"]),
        WebSocketRoute("/connection/websocket", WebSocketEndpoint(deps)),
        *publish_routes.routes(deps.channels, deps.access),
    ]


class _Reader(NamedTuple):
    """Who opens a stream, and how its cursors are signed."""

    principal: Principal
    sign: Callable[[str], str] | None = None


class _Streams:
    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps

    async def open(self, request: Request) -> Response:
        """GET /v1/stream. HEAD answers the headers only."""
        query = Query(request.query_params)
        channels = _channels(query)
        named = query.choice("event", ["type", "message"]) != "message"
        types = query.text("types", maximum=_MAX_TYPES)
        ticket, token = query.text("ticket"), query.text("token", maximum=_MAX_TOKEN)
        resumed = request.headers.get("last-event-id") or query.text("last_event_id") or query.text("lastEventId")
        query.check()
        if request.method == "HEAD":
            return head_only()  # and a ticket is not used up
        cursor = sse.parse_cursor(resumed) if resumed else None
        try:
            reader = await self._reader(request, ticket, token, cursor)
            await self._allow(reader.principal, channels)
        except GatewayError as error:
            if not error.retryable:
                raise
            return farewell("unavailable", random.uniform(*self._deps.hub.options.retry))  # noqa: S311 - jitter
        spec = StreamSpec(
            tenant=reader.principal.tenant,
            channels=channels,
            named=named,
            types=frozenset(types.split(",")) if types else None,
            sign=reader.sign,
            expires_at=reader.principal.expires_at,
            credential=reader.principal.credential,
        )
        return StreamResponse(self._deps.hub, spec, cursor, "" if cursor or not resumed else "cursor")

    async def _reader(
        self, request: Request, ticket: str | None, token: str | None, cursor: sse.Cursor | None
    ) -> _Reader:
        principal = optional_principal(request.scope)
        if principal is not None:
            return _Reader(principal)
        if ticket:
            return await self._with_ticket(ticket, cursor)
        if token:
            principal = await self._deps.authenticator.verify(token)
            if principal.kind == "token":
                return _Reader(principal)
            raise Unauthenticated("An API key does not belong into a URL: make a ticket with it")
        if self._deps.settings.anonymous:
            return _Reader(ANONYMOUS)
        raise Unauthenticated("Send a token, an API key or a ticket")

    async def _with_ticket(self, ticket: str, cursor: sse.Cursor | None) -> _Reader:
        secret, hashed = self._deps.secret(), ticket_hash(ticket)
        proven = cursor is not None and verify_cursor(secret, hashed, cursor.text, cursor.mac)
        principal = await self._deps.tickets.open(ticket, proven=proven)
        return _Reader(principal, partial(sign_cursor, secret, hashed))

    async def _allow(self, principal: Principal, channels: tuple[str, ...]) -> None:
        for channel in channels:
            if not await self._deps.access.may(principal, "sub", channel):
                raise Forbidden(f"You may not listen to {channel}")


def _channels(query: Query) -> tuple[str, ...]:
    names = query.texts("channel", count=MAX_CHANNELS)
    if not names:
        query.fault("channel", "must be given at least once")
    for name in names:
        fault = channel_fault(name)
        if fault is not None:
            query.fault("channel", fault)
    return tuple(dict.fromkeys(names))


class WebSocketEndpoint:
    """`/connection/websocket`: the handshake; everything after it is the hub's."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._commands = Commands(deps.hub, deps.settings, deps.authenticator, deps.access)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a handshake.

        Raises:
            Forbidden: the browser's origin is not allowed.
            BadRequest: only the binary protocol was offered.
        """
        headers = Headers(scope=scope)
        if not allowed_origin(headers.get("origin"), headers.get("host", ""), self._deps.settings.allowed_origins):
            raise Forbidden("This origin may not connect")
        offered = scope.get("subprotocols", [])
        if _BINARY in offered and SUBPROTOCOL not in offered:
            raise BadRequest("Only the JSON protocol is spoken here")
        await receive()  # websocket.connect
        await self._accept(scope, receive, send, SUBPROTOCOL if SUBPROTOCOL in offered else None)

    async def _accept(self, scope: Scope, receive: Receive, send: Send, subprotocol: str | None) -> None:
        hub, principal = self._deps.hub, optional_principal(scope)
        taken: list[bool] = []

        def take(transport: asyncio.Transport, registry: set[Any]) -> WebSocketConnection:
            taken.append(True)
            connection = WebSocketConnection(hub, self._commands, principal, wire=Wire.FRAME)
            connection.start(transport, registry)
            return connection

        message: dict[str, Any] = {"type": "websocket.accept", "subprotocol": subprotocol, "headers": []}
        if EXTENSION in scope.get("extensions", {}):
            message[EXTENSION] = take
        await send(message)
        if not taken:
            sink = AsgiWebSocketSink()
            connection = WebSocketConnection(hub, self._commands, principal, wire=Wire.TEXT)
            connection.start(sink)
            await sink.run(connection, receive, send)


def allowed_origin(origin: str | None, host: str, allowed: tuple[str, ...]) -> bool:
    """Whether a page of this origin may open a WebSocket (RFC 6455 section 10.2).

    Without an `Origin` it is no browser, and cookies are not how we authenticate: let it in.
    """
    if origin is None or "*" in allowed or origin in allowed:
        return True
    return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
