"""The live feed: one Redis pub/sub connection of its own, read as fast as it comes.

It bypasses the client library on purpose: everything that has arrived in one turn is handed over in one call
(DESIGN 4.3), and a connection that only looks alive is noticed by a deadline of our own.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import Callable
from typing import Protocol, Self, cast

import hiredis
import structlog
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.store.address import Node, RedisAddress
from gateway.store.places import places

log = structlog.get_logger(__name__)

PING_EVERY = 3.0
SILENCE = 8.0  # seconds without a byte after which the connection is dead, whatever TCP believes
CONNECT_TIMEOUT = 5.0
MAX_BACKOFF = 2.0
DOUBT_EVERY = 30.0  # seconds between two links given up on suspicion: it costs a reading of every topic
_NAMES_PER_COMMAND = 512


class FeedError(Exception):
    """The connection cannot be used: refused, protocol error, silence."""


class Listener(Protocol):
    """Who gets what the feed brings. Called in the order of arrival."""

    def on_messages(self, messages: list[tuple[bytes, bytes]]) -> None:
        """Take (pub/sub channel, payload) pairs that arrived together."""

    def on_subscribed(self, name: bytes) -> None:
        """From here on everything published to this pub/sub channel arrives."""

    def on_lost(self) -> None:
        """The connection is gone; until `on_subscribed` comes again, messages are lost."""


class Feed:
    """Keeps the wanted subscriptions alive for ever. `async with Feed(url, listener) as feed:`.

    Attributes:
        connected: the server has answered on the present connection.
        node: where the present or last connection leads.
    """

    def __init__(self, url: str, listener: Listener) -> None:
        self._address = RedisAddress.parse(url)
        self._places = places(self._address)
        self.node: Node | None = None
        self._trusted_until = 0.0
        self._listener = listener
        self._wanted: dict[bytes, None] = {}
        self._queued: dict[bytes, bool] = {}
        self._link: Link | None = None
        self._paused = False
        self._tasks = asyncio.TaskGroup()
        self._keeper: asyncio.Task[None] | None = None
        self.connected = False

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._keeper = self._tasks.create_task(self._keep(), name="feed")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
        await self._tasks.__aexit__(None, None, None)

    def subscribe(self, name: bytes) -> None:
        """Want a pub/sub channel; `on_subscribed` follows, again after every reconnect."""
        self._wanted[name] = None
        self._queue(name, wanted=True)

    def unsubscribe(self, name: bytes) -> None:
        """Want it no more."""
        self._wanted.pop(name, None)
        self._queue(name, wanted=False)

    def doubt(self) -> None:
        """Something published a while ago has not come although the link lives.

        It may lead to a server nobody publishes on any more: a master that was replaced behind our back, a node
        that was cut off from its Cluster. Where there are others, another is tried.
        """
        now = asyncio.get_running_loop().time()
        if self._link is None or self._paused or not self._places.movable or now < self._trusted_until:
            return
        self._trusted_until = now + DOUBT_EVERY
        self._link.end("what is published does not arrive")

    def pause(self) -> None:
        """Stop reading: the server buffers, and cuts us off when that is not enough."""
        self._paused = True
        if self._link is not None:
            self._link.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self._paused = False
        if self._link is not None:
            self._link.transport.resume_reading()
            self._link.heard = asyncio.get_running_loop().time()

    def _queue(self, name: bytes, *, wanted: bool) -> None:
        if self._link is None:
            return
        if not self._queued:
            asyncio.get_running_loop().call_soon(self._flush)
        self._queued[name] = wanted

    def _flush(self) -> None:
        queued, self._queued = self._queued, {}
        if self._link is not None:
            self._link.command(b"UNSUBSCRIBE", [name for name, wanted in queued.items() if not wanted])
            self._link.command(b"SUBSCRIBE", [name for name, wanted in queued.items() if wanted])

    async def _keep(self) -> None:
        attempt = 0
        while True:
            try:
                await self._session()
            except (OSError, FeedError) as error:
                attempt = 0 if self.connected else attempt + 1
                log.warning("feed.lost", reason=str(error) or type(error).__name__, attempt=attempt)
            self.connected, self._link, self._paused = False, None, False
            self._queued.clear()
            self._listener.on_lost()
            await asyncio.sleep(random.uniform(0.05, min(MAX_BACKOFF, 0.1 * 2 ** min(attempt, 10))))  # noqa: S311 - jitter

    async def _session(self) -> None:
        """Connect, subscribe to everything wanted, and stay until the connection is lost."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            try:
                node = self.node = await self._places.find(avoid=self.node)
            except RedisConnectionError as error:
                raise FeedError(str(error)) from None
            _, link = await loop.create_connection(
                lambda: Link(loop, self._listener, self._alive), node.host, node.port, ssl=self._tls()
            )
        self._link = link
        try:
            self._greet(link)
            await self._watch(link, loop)
        finally:
            link.transport.abort()

    def _tls(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=self._address.authority) if self._address.tls else None

    def _alive(self) -> None:
        self.connected = True

    def _greet(self, link: Link) -> None:
        address = self._address
        if address.password:
            names = [address.username] if address.username else []
            link.send(b"AUTH", *(part.encode() for part in [*names, address.password]))
        if address.database:
            link.send(b"SELECT", b"%d" % address.database)
        if address.kind == "sentinel":
            link.send(b"ROLE")  # a Sentinel may be behind: see `Link`
        link.send(b"PING")
        link.command(b"SUBSCRIBE", list(self._wanted))

    async def _watch(self, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            await asyncio.wait([link.lost], timeout=PING_EVERY)
            if link.lost.done():
                raise FeedError(link.lost.result())
            if self._paused:
                continue
            if loop.time() - link.heard > SILENCE:
                raise FeedError("the server is silent")
            link.send(b"PING")


class Link(asyncio.Protocol):
    """One connection: parses, and calls the listener with all that arrived together."""

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, listener: Listener, alive: Callable[[], None]) -> None:
        self._reader = hiredis.Reader()
        self._listener = listener
        self._alive = alive
        self._loop = loop
        self.lost: asyncio.Future[str] = loop.create_future()
        self.heard = loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; TCP's own keepalive on, for what our deadline does not see."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one by behaviour only
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the keeper."""
        self.end(str(exc) if exc else "the server closed the connection")

    def send(self, *parts: bytes) -> None:
        """Send one command."""
        self.transport.write(hiredis.pack_command(parts))  # type: ignore[arg-type] # its stub says a 1-tuple

    def command(self, verb: bytes, names: list[bytes]) -> None:
        """Send a command for many names."""
        for start in range(0, len(names), _NAMES_PER_COMMAND):
            self.send(verb, *names[start : start + _NAMES_PER_COMMAND])

    def data_received(self, data: bytes) -> None:
        """Parse all that came; messages go out together, in order with the confirmations."""
        self.heard = self._loop.time()
        reader = self._reader
        messages: list[tuple[bytes, bytes]] = []
        try:
            reader.feed(data)
            reply = reader.gets()
            while reply is not False and not self.lost.done():
                if type(reply) is list and reply[0] == b"message":
                    messages.append((reply[1], reply[2]))
                else:
                    if messages:
                        self._listener.on_messages(messages)
                        messages = []
                    self._control(reply)
                reply = reader.gets()
        except hiredis.HiredisError as error:
            self.end(f"the server's answer cannot be read: {error}")
        if messages:
            self._listener.on_messages(messages)

    def _control(self, reply: object) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self.end(f"the server refused: {reply}")
            return
        if isinstance(reply, list) and reply[0] == b"slave":
            self.end("the server is a replica")
            return
        if isinstance(reply, list) and reply[0] == b"subscribe":
            self._listener.on_subscribed(reply[1])
        self._alive()

    def end(self, reason: str) -> None:
        """Let the keeper give this connection up."""
        if not self.lost.done():
            self.lost.set_result(reason)
