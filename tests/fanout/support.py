"""A node of the gateway with nothing but the fan-out, and small clients for it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from websockets.asyncio.client import ClientConnection, connect

from gateway.auth.access import Access
from gateway.auth.authenticator import Authenticator
from gateway.auth.keys import KeyStore
from gateway.auth.middleware import Authentication
from gateway.auth.principals import Capability, Principal
from gateway.auth.revocation import Revocations
from gateway.auth.tickets import Tickets
from gateway.auth.tokens import Claims, Tokens
from gateway.events import Position, draft, new_id
from gateway.fanout.evictions import Evictions
from gateway.fanout.hub import Hub
from gateway.fanout.options import HubOptions
from gateway.fanout.routes import Dependencies, routes
from gateway.fanout.rpc import Call
from gateway.server.run import GatewayServer, ServerOptions, serving
from gateway.settings import ChannelRules, Settings
from gateway.store.channels import ChannelStore
from gateway.store.rates import Rates
from gateway.store.redis import Store
from gateway.web.problems import exception_handlers
from tests.support.waiting import LIMIT

SECRET = "a secret that is long enough for HS256"
ROOT_KEY = "root-key-for-tests"
OWNERS = {"mine": "ann"}
QUICK = HubOptions(probe=0.5, linger=0.3, drain=0.1, farewell=1.0, retry=(0.01, 0.02))


def settings_for(redis_url: str, **changes: Any) -> Settings:
    rules = {
        "open": ChannelRules(subscribe="anyone", publish="anyone", history_size=100_000),
        "short": ChannelRules(subscribe="anyone", history_size=5),
        "none": ChannelRules(subscribe="anyone", history_size=0),
        "secret": ChannelRules(),
    }
    values: dict[str, Any] = {
        "redis_url": redis_url,
        "token_secret": SECRET,
        "root_key": ROOT_KEY,
        "anonymous": True,
        "channels": rules,
        "rate_limit": 0,  # most tests are not about it
    }
    return Settings(**{**values, **changes})


class Node:
    """One running gateway process, in this process."""

    def __init__(self, app: Starlette, hub: Hub, channels: ChannelStore, server: GatewayServer | None) -> None:
        self.app, self.hub, self.channels, self.server = app, hub, channels, server

    @property
    def port(self) -> int:
        assert self.server is not None
        return self.server.port

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/connection/websocket"


class Block:
    """A call (RPC) that is answered when it is released."""

    def __init__(self) -> None:
        self.called, self.release = asyncio.Event(), asyncio.Event()

    async def __call__(self, _principal: Principal, _data: bytes) -> bytes:
        self.called.set()
        await self.release.wait()
        return b"1"


async def job_owner(_tenant: str, job_id: str) -> str | None:
    return OWNERS.get(job_id)


async def job_state(_tenant: str, job_id: str) -> bytes | None:
    if job_id not in OWNERS:
        return None
    return b'{"specversion":"1.0","id":"%b-7","type":"job.succeeded","data":{}}' % job_id.encode()


@asynccontextmanager
async def application(
    settings: Settings, options: HubOptions = QUICK, calls: Mapping[str, Call] | None = None
) -> AsyncIterator[Starlette]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store.open(settings))
        channels, keys = ChannelStore(store, settings), KeyStore(store, settings)
        hub = await stack.enter_async_context(Hub(settings.redis_url, channels, job_state, options))
        revocations = Revocations(store)
        hub.spawn(None, Evictions(hub, revocations).run())
        authenticator = Authenticator(keys, Tokens(SECRET.encode()), revoked=revocations.revoked)
        deps = Dependencies(
            settings=settings,
            hub=hub,
            channels=channels,
            access=Access(settings, job_owner),
            authenticator=authenticator,
            tickets=Tickets(store, keys, revoked=revocations.revoked),
            secret=SECRET.encode,
            calls=calls or {},
            spend=Rates(store, settings.rate_limit, settings.rate_burst).spend,
        )
        app = Starlette(
            routes=routes(deps),
            exception_handlers=exception_handlers(),
            middleware=[Middleware(Authentication, verify=authenticator.verify)],
        )
        app.state.hub, app.state.channels, app.state.tickets = hub, channels, deps.tickets
        app.state.revocations, app.state.keys, app.state.authenticator = revocations, keys, authenticator
        yield app


@asynccontextmanager
async def node(
    settings: Settings,
    options: HubOptions = QUICK,
    server: ServerOptions | None = None,
    calls: Mapping[str, Call] | None = None,
) -> AsyncIterator[Node]:
    async with (
        application(settings, options, calls) as app,
        serving(app, settings, server or ServerOptions(port=0)) as running,
    ):
        yield Node(app, app.state.hub, app.state.channels, running)


def http(target: Node) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{target.port}", timeout=LIMIT)


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port
    return port


async def publish(
    channels: ChannelStore, *names: str, data: object = None, type_: str = "test.event", key: str = ""
) -> list[Position]:
    event = draft(type_, msgspec.json.encode(data), id_=new_id("evt_"), source="/tests")
    return await channels.publish("default", names, event, key=key)


def token(subject: str = "ann", *, ttl: float = 3600, caps: Sequence[Capability] = (), **claims: Any) -> str:
    made = Claims(sub=subject, exp=time.time() + ttl, caps=tuple(caps), **claims)
    return Tokens(SECRET.encode()).mint(made)


class WsClient:
    """Speaks the protocol by hand, so that tests see every frame."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[str] = []
        self._lines: list[dict[str, Any]] = []
        self._id = 0
        self.id = ""

    async def send(self, **command: Any) -> int:
        self._id += 1
        await self.socket.send(json.dumps({"id": self._id, **command}))
        return self._id

    async def next(self, limit: float = LIMIT) -> dict[str, Any]:
        while not self._lines:
            async with asyncio.timeout(limit):
                frame = await self.socket.recv()
            assert isinstance(frame, str)
            self.frames.append(frame)
            for line in frame.split("\n"):
                message: dict[str, Any] = json.loads(line)
                if message:
                    self._lines.append(message)
                else:
                    await self.socket.send("{}")
        return self._lines.pop(0)

    async def ask(self, **command: Any) -> dict[str, Any]:
        number = await self.send(**command)
        later: list[dict[str, Any]] = []
        while (message := await self.next()).get("id") != number:
            later.append(message)
        self._lines[:0] = later
        return message

    async def connect(self, **request: Any) -> dict[str, Any]:
        return await self.ask(connect=request)

    async def subscribe(self, channel: str, **request: Any) -> dict[str, Any]:
        return await self.ask(subscribe={"channel": channel, **request})

    async def pubs(self, count: int, limit: float = LIMIT) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while len(found) < count:
            push = (await self.next(limit)).get("push", {})
            if "pub" in push:
                found.append(push["pub"])
        return found


@asynccontextmanager
async def ws(target: Node, *, hello: bool = True, **connecting: Any) -> AsyncIterator[WsClient]:
    async with connect(target.ws, compression=None, max_size=None, **connecting) as socket:
        client = WsClient(socket)
        if hello:
            assert "connect" in await client.connect()
        yield client


class SseClient:
    """Reads an event stream, block by block."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.status = 0
        self._chunks = b""
        self.last_id = ""

    async def head(self) -> Self:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers: dict[str, str] = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)
        }
        return self

    async def block(self, limit: float = LIMIT) -> dict[str, str]:
        async with asyncio.timeout(limit):
            text = await self._text()
        lines = [line.partition(":") for line in text.strip().split("\n") if line[:1] != ":"]
        fields = {name: value.removeprefix(" ") for name, _, value in lines}
        self.last_id = fields.get("id", self.last_id)
        return fields

    async def _text(self) -> str:
        if self.headers.get("transfer-encoding") != "chunked":
            return (await self.reader.readuntil(b"\n\n")).decode()
        while b"\n\n" not in self._chunks:
            size = int(await self.reader.readline(), 16)
            assert size, "the stream has ended"
            self._chunks += (await self.reader.readexactly(size + 2))[:-2]
        text, _, self._chunks = self._chunks.partition(b"\n\n")
        return text.decode()

    async def event(self, limit: float = LIMIT) -> dict[str, str]:
        while not (found := await self.block(limit)).get("data"):
            pass
        return found

    async def datas(self, count: int) -> list[Any]:
        return [json.loads((await self.event())["data"])["data"] for _ in range(count)]


@asynccontextmanager
async def sse(
    port: int, query: str, *headers: str, version: str = "1.1", tail: bytes = b"", tls: Any = None
) -> AsyncIterator[SseClient]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, limit=2**20)
    lines = [f"GET /v1/stream?{query} HTTP/{version}", "Host: 127.0.0.1", *headers]
    writer.write("\r\n".join([*lines, "", ""]).encode() + tail)
    try:
        yield await SseClient(reader, writer).head()
    finally:
        writer.transport.abort()
