"""`gateway serve`: the web process, or several on one port."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import ExitStack, suppress

import structlog

from gateway.app import build_app
from gateway.errors import ConfigurationError
from gateway.server.lifespan import StartStoppedError
from gateway.server.run import GatewayServer, ServerOptions, bind, serving
from gateway.server.workers import READY, Inherited, Workers
from gateway.settings import Settings, load
from gateway.store.redis import Store
from gateway.telemetry.logs import configure

log = structlog.get_logger(__name__)


async def run_serve(options: ServerOptions, workers: int = 1) -> None:
    """Serve until a signal says otherwise. Redis and RabbitMQ may be away: readiness tells, requests get 503.

    Raises:
        ConfigurationError: a setting, the address or the certificate is wrong, or no worker stays alive.
    """
    settings = load()
    configure(settings)
    _check_certificate(options)
    async with Store.open(settings) as store:
        await store.check_at_start()
    with ExitStack() as stack:
        first = stack.enter_context(_bind(options, options.port))
        if workers == 1:
            with suppress(StartStoppedError):
                await _serve(settings, options, first, None)
            return
        # The first was bound alone, so that somebody else's port is noticed; it gives way to the shared ones.
        port = first.getsockname()[1]
        first.close()
        listeners = [stack.enter_context(_bind(options, port, shared=True)) for _ in range(workers)]
        for listener in listeners:
            listener.listen(options.backlog)  # connections wait for their worker instead of being refused
        await Workers(_command(options), listeners).run()


async def run_worker(options: ServerOptions, inherited: Inherited) -> None:
    """Serve as one of several, on the socket of the parent; drain when the parent is gone."""
    settings = load()
    configure(settings)
    with socket.socket(fileno=inherited.listener) as listener, socket.socket(fileno=inherited.parent) as parent:
        parent.setblocking(False)
        with suppress(StartStoppedError):
            await _serve(settings, options, listener, parent)


async def _serve(
    settings: Settings, options: ServerOptions, listener: socket.socket, parent: socket.socket | None
) -> None:
    app = build_app(settings)
    async with serving(app, settings, options, sockets=[listener], signals=True) as server:
        scheme = "https" if options.certificate else "http"
        log.info("gateway.listening", url=f"{scheme}://{options.host}:{server.port}")
        async with asyncio.TaskGroup() as group:
            watching = None
            if parent is not None:
                parent.send(READY)
                watching = group.create_task(_stop_with(parent, server))
            await server.stopping.wait()
            if watching is not None:
                watching.cancel()


async def _stop_with(parent: socket.socket, server: GatewayServer) -> None:
    await asyncio.get_running_loop().sock_recv(parent, 1)  # the parent never says anything: this is its end
    log.error("server.parent_gone")
    server.stop()


def _command(options: ServerOptions) -> list[str]:
    command = ["-m", "gateway", "serve", "--host", options.host, "--port", str(options.port)]
    command += ["--pause", str(options.pause)]
    for name, path in (("--certificate", options.certificate), ("--key", options.key)):
        command += [name, path] if path else []
    return command


def _bind(options: ServerOptions, port: int, *, shared: bool = False) -> socket.socket:
    try:
        return bind(options.host, port, shared=shared)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {options.host} port {port}: {error.strerror}") from None


def _check_certificate(options: ServerOptions) -> None:
    if options.certificate is None:
        if options.key is not None:
            raise ConfigurationError("--key needs --certificate")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.certificate, options.key)
    except (OSError, ssl.SSLError) as error:
        names = " and ".join(filter(None, (options.certificate, options.key)))
        raise ConfigurationError(f"no certificate and key in {names}: {error.strerror or error}") from None
