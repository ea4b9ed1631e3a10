"""Routes of the fan-out: streams, the WebSocket and its emulation, and what `publish_routes` adds."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route, WebSocketRoute

from gateway.fanout import presence_routes, publish_routes
from gateway.fanout.commands import Commands
from gateway.fanout.dependencies import Dependencies
from gateway.fanout.emulation_routes import EmulationRoutes
from gateway.fanout.stream_routes import Streams
from gateway.fanout.websocket_routes import WebSocketEndpoint

__all__ = ["Dependencies", "routes"]


def routes(deps: Dependencies) -> list[BaseRoute]:
    """Return the routes."""
    commands = Commands(deps.hub, deps.settings, deps.authenticator, deps.access, deps.calls, deps.spend)
    return [
        Route("/v1/stream", Streams(deps).open, methods=["GET"]),
        WebSocketRoute("/connection/websocket", WebSocketEndpoint(deps, commands)),
        *EmulationRoutes(deps, commands).routes(),
        *publish_routes.routes(deps.channels, deps.access),
        *presence_routes.routes(deps.hub, deps.settings, deps.access),
    ]
