"""Writing to a connection the server keeps: the same hub over ASGI `send` (DESIGN 4.3).

A sink looks like a transport to its connection: writing never waits, a full buffer calls `pause_writing`, an
empty one `resume_writing`, the end `connection_lost`. The request's own task does the waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.types import Message, Receive, Send

from gateway.fanout.connection import Connection
from gateway.fanout.websocket import WebSocketConnection

HIGH = 64 * 1024  # bytes waiting above which the reader is slow, as in asyncio's transports


class AsgiSink:
    """A bounded buffer between a connection and `send`; `await run(…)` in the request's task."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._messages: deque[tuple[Message, int]] = deque()
        self._waiting = 0
        self._full = False
        self._closing = False
        self._wake = asyncio.Event()
        self._reading = asyncio.Event()
        self._reading.set()

    # What a connection calls.

    def write(self, data: bytes) -> None:
        """See `connection.Sink`."""
        if not self._closing:
            self._put(self._message(data), len(data))

    def close(self) -> None:
        """See `connection.Sink`."""
        if not self._closing:
            self._put(self._last(), 0)
            self._closing = True

    def abort(self) -> None:
        """See `connection.Sink`."""
        self._messages.clear()
        self._closing = True
        self._wake.set()

    def is_closing(self) -> bool:
        """See `connection.Sink`."""
        return self._closing

    def pause_reading(self) -> None:
        """See `connection.Sink`."""
        self._reading.clear()

    def resume_reading(self) -> None:
        """See `connection.Sink`."""
        self._reading.set()

    # What the request's task does.

    async def run(self, connection: Connection, receive: Receive, send: Send) -> None:
        """Carry the connection until either side has had enough."""
        self._connection = connection
        self._check()
        try:
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(self._write_all(send))
                reading = group.create_task(self._read_all(receive))
                await asyncio.wait([writing, reading], return_when=asyncio.FIRST_COMPLETED)
                writing.cancel()
                reading.cancel()
        finally:
            self._closing = True
            connection.connection_lost(None)

    async def _write_all(self, send: Send) -> None:
        while self._messages or not self._closing:
            if not self._messages:
                self._wake.clear()
                await self._wake.wait()
                continue
            message, size = self._messages.popleft()
            try:
                await send(message)
            except OSError:
                return  # the client has gone (ASGI 2.4)
            self._waiting -= size
            if self._full and self._waiting <= HIGH // 4 and self._connection is not None:
                self._full = False
                self._connection.resume_writing()

    async def _read_all(self, receive: Receive) -> None:
        while True:
            message = await receive()
            if message["type"].endswith(".disconnect"):
                return
            self._read(message)
            await self._reading.wait()

    def _put(self, message: Message, size: int) -> None:
        self._messages.append((message, size))
        self._waiting += size
        self._wake.set()
        self._check()

    def _check(self) -> None:
        if not self._full and self._waiting > HIGH and self._connection is not None:
            self._full = True
            self._connection.pause_writing()

    def _message(self, data: bytes) -> Message:
        return {"type": "http.response.body", "body": data, "more_body": True}

    def _last(self) -> Message:
        return {"type": "http.response.body", "body": b"", "more_body": False}

    def _read(self, message: Message) -> None:
        """A stream's client has nothing to say."""


class AsgiWebSocketSink(AsgiSink):
    """The same for an accepted WebSocket."""

    def __init__(self) -> None:
        super().__init__()
        self._code, self._reason = 1000, ""

    def close_with(self, code: int, reason: str) -> None:
        """Close with a code: the server does the closing handshake."""
        self._code, self._reason = code, reason
        self.close()

    def _message(self, data: bytes) -> Message:
        return {"type": "websocket.send", "text": data.decode()}

    def _last(self) -> Message:
        return {"type": "websocket.close", "code": self._code, "reason": self._reason}

    def _read(self, message: Message) -> None:
        connection = self._connection
        if isinstance(connection, WebSocketConnection):
            text = message.get("text")
            connection.receive((message.get("bytes") or b"") if text is None else text.encode())
