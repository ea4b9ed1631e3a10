"""ASGI middleware: the shortest way to a WebSocket."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send


class Direct:
    """Hands a handshake of a known path to its endpoint; everything else goes on to the routes.

    What lies between costs as much as the endpoint itself and changes nothing for a WebSocket: Starlette compares the
    path with every route, wraps `send`, and turns errors into the answers that `problems.Errors` gives as well.
    """

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, ASGIApp]) -> None:
        """`endpoints` by path; may be filled later."""
        self.app = app
        self.endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        endpoint = self.endpoints.get(scope["path"]) if scope["type"] == "websocket" else None
        await (endpoint or self.app)(scope, receive, send)
