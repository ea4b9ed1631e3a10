"""Running the server: configuration, embedding, signals, drain (DESIGN 4.3)."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, Protocol

import structlog
import uvicorn
from starlette.types import ASGIApp

from gateway.server.admission import Admission, TurnAway
from gateway.server.heads import Heads
from gateway.server.http import HttpProtocol
from gateway.server.lifespan import Lifespan, StartStoppedError
from gateway.server.websocket import WebSocketProtocol
from gateway.settings import Settings

log = structlog.get_logger(__name__)

MAX_HANDSHAKE_MESSAGE = 1024 * 1024  # before the handover; afterwards the fan-out has its own, smaller limit
VANISHED = 60_000  # milliseconds a peer may leave what we wrote unacknowledged; the kernel's own patience is 15 minutes
UNSENT = 128 * 1024  # bytes the kernel takes for a connection beyond what its peer lets us send; its own bound is 4 MB
_COLLECT = (20_000, 20, 100)  # new objects, and younger collections, between two collections of a generation
_LOOK = 0.05  # seconds between two looks at a flag
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Drainable(Protocol):
    """Something with live connections that must be told to go."""

    async def drain(self) -> None:
        """Close them, spread out; returns when they have gone."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How the server listens and stops. Durations are seconds.

    Attributes:
        host: address to listen on.
        port: 0 picks a free one.
        pause: between readiness going away and the listeners closing, so that balancers notice.
        graceful: how long requests in progress may take after that.
        certificate: PEM file with the TLS certificate (chain), or None for plain HTTP.
        key: PEM file with its key, when it is not in the same file.
        backlog: connections the kernel may hold for us.
        head: how long a connection may take to send a complete request head.
        heads: connections that may be without one at a time; one more ends the oldest of them.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    pause: float = 0.0
    graceful: int = 10
    certificate: str | None = None
    key: str | None = None
    backlog: int = 2048
    head: float = 10.0
    heads: int = 4096


class GatewayServer(uvicorn.Server):
    """uvicorn with our protocols and our way to stop.

    The application's `state` is the meeting point: `state.draining` becomes True first, and `state.hub`, when
    there is one, is drained after the listeners have closed. `state.turn_away` answers for us under overload.
    """

    def __init__(self, config: uvicorn.Config, options: ServerOptions, state: Any, *, signals: bool) -> None:  # noqa: ANN401 - Starlette's State
        super().__init__(config)
        self._options = options
        self._state = state
        self._signals = signals
        self.listening, self.stopping = asyncio.Event(), asyncio.Event()
        self.failed = self.asked_early = False

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.servers[0].sockets[0].getsockname()[1])

    def stop(self) -> None:
        """Begin to stop; a second call does not wait any more."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen. `failed` says that the application did not start."""
        self.lifespan = lifespan = Lifespan(self.config)
        asking = asyncio.ensure_future(self._until_asked(lifespan))
        try:
            await super().startup(sockets=sockets)
        except SystemExit:
            # uvicorn would end the whole process, even when it is only a guest in it.
            self.failed = self.should_exit = True
        finally:
            asking.cancel()
        if self._signals:  # the process is ours
            _calm_collector()
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Unready, pause, close the listeners, drain the hub, then what uvicorn does."""
        log.info("server.draining", pause=self._options.pause)
        self.stopping.set()
        self._state.draining = True
        await self._wait(self._options.pause)
        for server in self.servers:
            server.close()
        hub: Drainable | None = getattr(self._state, "hub", None)
        if hub is not None and not self.force_exit:
            await self._unless_forced(hub)
        await super().shutdown(sockets=sockets)
        log.info("server.stopped")

    async def _until_asked(self, lifespan: Lifespan) -> None:
        while not self.should_exit:  # noqa: ASYNC110 - a flag that a signal handler sets, as below
            await asyncio.sleep(_LOOK)
        self.asked_early = True
        lifespan.give_up()

    async def _wait(self, seconds: float) -> None:
        # A signal handler can set a flag, not wake a task: so look, as uvicorn does.
        for _ in range(round(seconds / _LOOK)):
            if not self.force_exit:
                await asyncio.sleep(_LOOK)

    async def _unless_forced(self, hub: Drainable) -> None:
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(hub.drain())
            while not draining.done():
                await asyncio.wait([draining], timeout=0.1)
                if self.force_exit:
                    draining.cancel()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop on SIGTERM and SIGINT, and do not raise them again afterwards: our caller cleans up, too."""
        if not self._signals:
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal.

        Importing sse-starlette replaces this method in uvicorn's class, not in ours.
        """
        del frame
        log.info("server.signal", signal=signal.Signals(sig).name)
        self.stop()


def _calm_collector() -> None:
    """Look for cycles less often: thousands of connections and rings live long, and nearly nothing of it is a cycle.

    With Python's own thresholds a process with 10,000 topics spends some quarter of its time on it.
    """
    gc.collect()
    gc.freeze()  # modules and application stay anyway
    gc.set_threshold(*_COLLECT)


def configure(app: ASGIApp, settings: Settings, options: ServerOptions) -> uvicorn.Config:
    """Build uvicorn's configuration: our protocols, no compression, no logging set-up of its own."""
    turn_away: TurnAway | None = getattr(getattr(app, "state", None), "turn_away", None)
    return uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        http=partial(  # type: ignore[arg-type] # makes one, as the class
            HttpProtocol, admission=Admission(turn_away), heads=Heads(options.head, options.heads)
        ),
        ws=WebSocketProtocol,
        ws_max_size=MAX_HANDSHAKE_MESSAGE,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        lifespan="on",
        interface="asgi3",
        log_config=None,
        # uvicorn logs whole URLs, and queries may hold tickets: below a warning it says nothing.
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        backlog=options.backlog,
        timeout_graceful_shutdown=options.graceful,
        ssl_certfile=options.certificate,
        ssl_keyfile=options.key,
        # A worker count in the environment is for the command line's supervisor, not for a server.
        workers=1,
    )


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Open a listening socket; `shared` lets several processes listen on the same port.

    Raises:
        OSError: the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for option, value in (("TCP_USER_TIMEOUT", VANISHED), ("TCP_NOTSENT_LOWAT", UNSENT)):
            if hasattr(socket, option):  # every connection gets it from the listener
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        sock.bind((host, port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


@asynccontextmanager
async def serving(
    app: Any,  # noqa: ANN401 - Starlette, or anything with `state`
    settings: Settings,
    options: ServerOptions | None = None,
    *,
    sockets: Sequence[socket.socket] | None = None,
    signals: bool = False,
) -> AsyncIterator[GatewayServer]:
    """Serve inside a running loop; the server listens when the block begins and has stopped when it ends.

    Raises:
        OSError: the address cannot be listened on.
        RuntimeError: the application did not start.
        StartStoppedError: it was asked to stop before it did.
    """
    chosen = options or ServerOptions()
    own = list(sockets) if sockets is not None else [bind(chosen.host, chosen.port)]
    server = GatewayServer(configure(app, settings, chosen), chosen, app.state, signals=signals)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets=own), name="server")
            await server.listening.wait()
            if server.failed and server.asked_early:
                raise StartStoppedError
            if server.failed:
                raise RuntimeError("the application did not start; the log says why")
            try:
                yield server
            finally:
                server.should_exit = True
    except BaseExceptionGroup as error:
        raise _single(error) from None
    finally:
        for sock in own:
            sock.close()


def _single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Take one error out of a group that only exists because the server is a task."""
    return group.exceptions[0] if len(group.exceptions) == 1 else group


def run(
    app: Any,  # noqa: ANN401 - as above
    settings: Settings,
    options: ServerOptions | None = None,
    *,
    sockets: Sequence[socket.socket] | None = None,
) -> None:
    """Serve until a signal says otherwise; on uvloop where it is installed."""
    chosen = options or ServerOptions()
    factory: Callable[[], asyncio.AbstractEventLoop] | None = configure(app, settings, chosen).get_loop_factory()

    async def main() -> None:
        async with serving(app, settings, chosen, sockets=sockets, signals=True) as server:
            await server.stopping.wait()

    with asyncio.Runner(loop_factory=factory) as runner, suppress(StartStoppedError):
        runner.run(main())
