"""The peer everyone writes first: plain Starlette, one queue and one coroutine per connection, Redis pub/sub behind it.

It checks the same HS256 tokens. It keeps no history, resumes nobody, bounds nothing: less than ours, on the same stack.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import jwt
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

SECRET = os.environ["PLAIN_SECRET"]
queues: dict[str, set[asyncio.Queue[str]]] = {}


async def dispatch(redis: Redis) -> None:
    """Put what Redis publishes into every queue of its channel."""
    async with redis.pubsub() as pubsub:
        await pubsub.psubscribe("plain:*")
        async for message in pubsub.listen():
            if message["type"] == "pmessage":
                text = message["data"].decode()
                for queue in queues.get(message["channel"].decode().partition(":")[2], ()):
                    queue.put_nowait(text)


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    redis = Redis.from_url(os.environ["PLAIN_REDIS_URL"])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(dispatch(redis))
        yield
        task.cancel()
    await redis.aclose()


async def websocket(connection: WebSocket) -> None:
    """First message: the token; second: the channel; then events."""
    await connection.accept()
    jwt.decode(json.loads(await connection.receive_text())["token"], SECRET, algorithms=["HS256"])
    await connection.send_text('{"connected":true}')
    channel = json.loads(await connection.receive_text())["subscribe"]
    queue: asyncio.Queue[str] = asyncio.Queue()
    members = queues.setdefault(channel, set())
    members.add(queue)
    try:
        await connection.send_text('{"subscribed":true}')
        while True:
            await connection.send_text(await queue.get())
    except WebSocketDisconnect:
        pass
    finally:
        members.discard(queue)


async def stream(request: Request) -> StreamingResponse:
    """Events of `?channel=`."""
    jwt.decode(request.headers["authorization"].partition(" ")[2], SECRET, algorithms=["HS256"])
    queue: asyncio.Queue[str] = asyncio.Queue()
    members = queues.setdefault(request.query_params["channel"], set())

    async def body() -> AsyncIterator[str]:
        members.add(queue)
        try:
            yield ": open\n\n"
            while True:
                yield f"data: {await queue.get()}\n\n"
        finally:
            members.discard(queue)

    return StreamingResponse(body(), media_type="text/event-stream")


app = Starlette(routes=[WebSocketRoute("/ws", websocket), Route("/stream", stream)], lifespan=lifespan)
