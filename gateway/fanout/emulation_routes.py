"""Routes for Centrifuge clients where WebSockets do not get through: `http_stream`, `sse`, and `/emulation`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from gateway.auth.principals import Principal
from gateway.errors import BodyTooLarge, NotFound, TooManyConnections
from gateway.fanout import codes, replies, sse
from gateway.fanout.commands import Commands
from gateway.fanout.dependencies import Dependencies
from gateway.fanout.emulated import EmulatedConnection
from gateway.fanout.emulation import Emulation
from gateway.fanout.frames import MAX_MESSAGE
from gateway.fanout.origins import caller_of, check_origin, host_of
from gateway.fanout.responses import head_only
from gateway.fanout.seats import Seat
from gateway.fanout.sinks import AsgiSink
from gateway.fanout.wire import Wire
from gateway.server.handover import EXTENSION
from gateway.web.bodies import read_body, read_json
from gateway.web.pagination import Query

LINE_HEADERS = (
    (b"content-type", b"application/x-ndjson"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
)
_MAX_BODY = 2 * MAX_MESSAGE + 1024  # of `/emulation`: commands as text inside JSON, where each quote is two bytes
_NODE = re.compile(r"[0-9a-f]{1,64}\Z")
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


class Further(msgspec.Struct):
    """The body of `/emulation`: commands for a session on a node."""

    session: str
    node: str
    data: str


class EmulationRoutes:
    """The handlers. They use no principal of `/emulation`: the session's name is the right to speak for it."""

    def __init__(self, deps: Dependencies, commands: Commands) -> None:
        self._deps = deps
        self._emulation = Emulation(deps.hub, commands, deps.channels)

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route("/connection/http_stream", self.http_stream, methods=["POST"]),
            Route("/connection/sse", self.sse, methods=["GET"]),
            Route("/emulation", self.further, methods=["POST"]),
        ]

    async def http_stream(self, request: Request) -> Response:
        """POST /connection/http_stream: the body holds the first commands, the answer's lines are the replies."""
        check_origin(request.headers, self._deps.settings)
        return await self._open(request, partial(read_body, request, limit=MAX_MESSAGE), Wire.LINE)

    async def sse(self, request: Request) -> Response:
        """GET /connection/sse?cf_connect=…: the same with the replies as SSE."""
        check_origin(request.headers, self._deps.settings)
        query = Query(request.query_params)
        first = query.text("cf_connect", maximum=MAX_MESSAGE)
        if not first:
            query.fault("cf_connect", "must be the connect command")
        query.check()
        if request.method == "HEAD":
            return head_only()

        async def commands() -> bytes:
            return (first or "").encode("utf-8", "surrogatepass")

        return await self._open(request, commands, Wire.DATA)

    async def _open(self, request: Request, read: Callable[[], Awaitable[bytes]], wire: Wire) -> Response:
        """Answer; `read` reads the first commands, once the client has its seat: slow ones are counted as well."""
        deps = self._deps
        principal = await caller_of(request, deps.settings, deps.authenticator)
        if deps.hub.draining:
            return _turned_away(wire, codes.SHUTDOWN)
        try:
            seat = deps.seats.seat(host_of(request), principal.tenant if principal else "")
        except TooManyConnections:
            return _turned_away(wire, codes.TOO_MANY)
        try:
            first = await read()
        except BaseException:
            seat.leave()
            raise
        return EmulatedResponse(self._emulation, principal, first, wire, seat)

    async def further(self, request: Request) -> Response:
        """POST /emulation: bring a client's further commands to the node that holds its session.

        204 also when the node has the session no more: then its answer has ended as well, which tells the client.
        """
        check_origin(request.headers, self._deps.settings)
        body = await read_json(request, Further, limit=_MAX_BODY)
        if not _NODE.match(body.node) or not _SESSION.match(body.session):
            raise NotFound("There is no such node")
        commands = body.data.encode("utf-8", "surrogatepass")
        if len(commands) > MAX_MESSAGE:
            raise BodyTooLarge(f"The commands are over {MAX_MESSAGE} bytes")
        await self._emulation.deliver(body.node, body.session, commands)
        return Response(status_code=204)


class EmulatedResponse(Response):
    """An answer that belongs to the hub, as `StreamResponse`."""

    def __init__(self, emulation: Emulation, principal: Principal | None, first: bytes, wire: Wire, seat: Seat) -> None:
        super().__init__()
        self.raw_headers = _headers(wire)
        self._seat = seat
        self._emulation, self._principal, self._first, self._wire = emulation, principal, first, wire

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        with self._seat:
            sink = AsgiSink()
            connection = await self._begin(sink, scope, send)
            if connection is not None:
                await sink.run(connection, receive, send)

    async def _begin(self, sink: AsgiSink, scope: Scope, send: Send) -> EmulatedConnection | None:
        """Start the response; None when the connection has been handed over."""
        taken: list[bool] = []

        def take(transport: asyncio.Transport, registry: set[Any]) -> EmulatedConnection:
            taken.append(True)
            connection = self._connection()
            connection.start(transport, registry)
            return connection

        start: Message = {"type": "http.response.start", "status": 200, "headers": list(self.raw_headers)}
        if EXTENSION in scope.get("extensions", {}):
            start[EXTENSION] = take
        await send(start)
        if taken:
            return None
        connection = self._connection()
        connection.start(sink)
        connection.connection_made(asyncio.BaseTransport())
        return connection

    def _connection(self) -> EmulatedConnection:
        connection = EmulatedConnection(self._emulation, self._principal, self._first, wire=self._wire)
        connection.keep(self._seat)
        return connection


def _headers(wire: Wire) -> list[tuple[bytes, bytes]]:
    return list(LINE_HEADERS if wire is Wire.LINE else sse.HEADERS)


def _turned_away(wire: Wire, told: codes.Disconnect) -> Response:
    """Answer a client that may come back, in the protocol's own words, so that it does not change transports."""
    push = replies.disconnect_push(told)
    response = Response(push + b"\n" if wire is Wire.LINE else sse.lines(push))
    response.raw_headers = [*_headers(wire), (b"content-length", str(len(response.body)).encode())]
    return response
