"""Giving a connection away: the server answers the request, somebody else keeps the socket (DESIGN 4.3).

The offer is an ASGI scope extension. A scope that has `extensions["gateway.handover"]` comes from a server that
understands one more key, of the same name, in the message that starts the response (`http.response.start` with
status 200, or `websocket.accept`). Its value is a `Factory`. The message travels through every middleware as
usual, so headers added on the way are written; then the server calls the factory and gives it the transport.

A factory that has been called owns the connection. One that has not been called when `send` returns was
refused (pipelined requests, an unread body, another server): the response goes on over ASGI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

EXTENSION = "gateway.handover"


class Guest(Protocol):
    """A protocol that lives on a transport the server has given away."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called once, when the guest is in place: from here on it may write."""

    def data_received(self, data: bytes) -> None:
        """As any asyncio protocol."""

    def eof_received(self) -> bool | None:
        """As any asyncio protocol."""

    def connection_lost(self, exc: Exception | None) -> None:
        """As any asyncio protocol; leaves the registry too."""

    def pause_writing(self) -> None:
        """As any asyncio protocol."""

    def resume_writing(self) -> None:
        """As any asyncio protocol."""

    def shutdown(self) -> None:
        """The server stops: say goodbye and close."""


Factory = Callable[[asyncio.Transport, set[Any]], Guest]
"""Takes the transport and the server's set of open connections (which the guest leaves in `connection_lost`)."""


def give(transport: asyncio.Transport, registry: set[Any], host: object, factory: Factory, *, full: bool) -> Guest:
    """Put a guest in the place of `host`. `full`: the write buffer is over its limit right now."""
    guest = factory(transport, registry)
    transport.set_protocol(guest)  # type: ignore[arg-type] # structurally an asyncio.Protocol
    registry.discard(host)
    registry.add(guest)
    guest.connection_made(transport)
    if full:
        guest.pause_writing()
    return guest


class GoneTransport(asyncio.Transport):
    """What a protocol holds after its transport was given away: nothing it does reaches the socket."""

    def is_closing(self) -> bool:
        """Say yes: there is nothing to write to."""
        return True

    def write(self, data: object) -> None:
        """Ignore."""

    def close(self) -> None:
        """Ignore."""

    def abort(self) -> None:
        """Ignore."""

    def pause_reading(self) -> None:
        """Ignore."""

    def resume_reading(self) -> None:
        """Ignore."""


GONE = GoneTransport()
