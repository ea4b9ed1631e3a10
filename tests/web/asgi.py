"""Talk to an ASGI application without a server."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
from starlette.types import ASGIApp, Message

Headers = Sequence[tuple[str, str]]


def client(app: ASGIApp) -> httpx.AsyncClient:
    """An HTTP client; what the application raises, the test sees."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


async def websocket(app: ASGIApp, path: str, *, headers: Headers = (), denial: bool = True) -> list[Message]:
    """Open a WebSocket that says nothing; returns what the application sent."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.disconnect" if sent else "websocket.connect", "code": 1000}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": path,
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
        "extensions": {"websocket.http.response": {}} if denial else {},
        "subprotocols": [],
    }
    await app(scope, receive, send)
    return sent
