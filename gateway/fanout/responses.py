"""Answering a request with a connection of the hub: handed over where the server can, else over ASGI."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

from sse_starlette import EventSourceResponse
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gateway.errors import GatewayError
from gateway.fanout import sse
from gateway.fanout.hub import Hub
from gateway.fanout.seats import Seat
from gateway.fanout.sinks import AsgiSink
from gateway.fanout.stream import PAGE, Stream, StreamSpec
from gateway.fanout.topic import Topic
from gateway.server.handover import EXTENSION


class StreamResponse(EventSourceResponse):
    """An event stream that belongs to the hub.

    The class is sse-starlette's so that middleware and tools know a stream when they see one; its own tasks,
    pings and shutdown watcher never start. What is temporary is told inside the stream: EventSource gives up
    for ever on anything but 200.
    """

    def __init__(self, hub: Hub, spec: StreamSpec, cursor: sse.Cursor | None, fault: str, seat: Seat) -> None:
        """`fault` is why the stream cannot begin from `cursor` although the reader asked to resume, or empty."""
        super().__init__(_nothing())
        self.raw_headers = list(sse.HEADERS)
        self._hub, self._spec, self._cursor, self._fault, self._seat = hub, spec, cursor, fault, seat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        with self._seat:
            if self._hub.draining:
                await self._turn_away("shutdown")(scope, receive, send)
            else:
                await self._open(scope, receive, send)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = Stream(self._hub, self._spec)
        with self._hub.attached(self._spec.tenant, self._spec.channels) as topics:
            try:
                first = await self._first(stream, topics)
            except GatewayError:
                await self._turn_away("unavailable")(scope, receive, send)
                return
            stream.prepare(topics, first)
            sink = await self._begin(stream, scope, send)
        if sink is not None:
            await sink.run(stream, receive, send)

    async def _begin(self, stream: Stream, scope: Scope, send: Send) -> AsgiSink | None:
        """Start the response; None when the connection has been handed over."""
        taken: list[bool] = []

        def take(transport: asyncio.Transport, registry: set[Any]) -> Stream:
            taken.append(True)
            stream.keep(self._seat)
            stream.start(transport, registry)
            return stream

        start = self._start()
        if EXTENSION in scope.get("extensions", {}):
            start[EXTENSION] = take
        await send(start)
        if taken:
            return None
        sink = AsgiSink()
        stream.keep(self._seat)
        stream.start(sink)
        stream.connection_made(asyncio.BaseTransport())
        return sink

    async def _first(self, stream: Stream, topics: list[Topic]) -> bytes:
        """Find out what the reader gets before anything live, and put the stream's cursor behind it."""
        hub, spec, cursor = self._hub, self._spec, self._cursor
        await hub.in_time(topics)
        retry = random.uniform(*hub.options.retry)  # noqa: S311 - jitter
        if cursor is None and not self._fault:
            stream.generation, stream.cursor = await hub.reads.head(spec)
            return sse.opening(stream.position, retry)
        if cursor is not None:
            stream.generation, stream.cursor = cursor.generation, cursor.sequence
            replay = await hub.reads.replay(spec, cursor.generation, cursor.sequence, PAGE)
            if replay.complete:
                return sse.opening(stream.position, retry) + stream.take(replay)
        body = await stream.restart(self._fault or "history")
        return sse.opening(stream.position, retry) + body

    def _turn_away(self, reason: str) -> Response:
        cursor = place(self._spec.sign, self._cursor, self._fault)
        return farewell(reason, random.uniform(*self._hub.options.retry), cursor)  # noqa: S311 - jitter

    def _start(self) -> Message:
        return {"type": "http.response.start", "status": 200, "headers": list(self.raw_headers)}


async def _nothing() -> AsyncIterator[bytes]:
    none: tuple[bytes, ...] = ()
    for part in none:
        yield part


def place(sign: Callable[[str], str] | None, cursor: sse.Cursor | None, fault: str) -> str:
    """Return the id a reader is sent away with, or empty.

    Its ticket has been used up, so it must have something that proves it the next time (DESIGN 3.6), and no less
    than it came with: its cursor, or that it had none, or that it was not ours.
    """
    if sign is None:
        return ""
    text = (cursor or (sse.LOST if fault else sse.FRESH)).text
    return f"{text}.{sign(text)}"


def farewell(reason: str, retry: float, cursor: str = "") -> Response:
    """Answer a reader that may come back after `retry` seconds, before it has a stream; `cursor` as `place` says."""
    response = Response(sse.bye(reason, retry, cursor))
    response.raw_headers = [*sse.HEADERS, (b"content-length", str(len(response.body)).encode())]
    return response


def head_only() -> Response:
    """Answer HEAD: the headers a stream would have."""
    response = Response()
    response.raw_headers = list(sse.HEADERS)
    return response
