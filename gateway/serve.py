"""`gateway serve`: the web process."""

from __future__ import annotations

import structlog

from gateway.app import build_app
from gateway.server.run import ServerOptions, serving
from gateway.settings import load
from gateway.telemetry.logs import configure

log = structlog.get_logger(__name__)


async def run_serve(host: str, port: int) -> None:
    """Serve until a signal says otherwise. Redis and RabbitMQ may be away: readiness tells, requests get 503."""
    settings = load()
    configure(settings)
    app = build_app(settings)
    async with serving(app, settings, ServerOptions(host=host, port=port), signals=True) as server:
        log.info("gateway.listening", url=f"http://{host}:{server.port}")
        await server.stopping.wait()
