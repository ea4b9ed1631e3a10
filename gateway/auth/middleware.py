"""ASGI middleware: who is behind a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.auth.principals import Principal
from gateway.errors import GatewayError, Unauthenticated
from gateway.web.problems import refuse

OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/asyncapi.json", "/favicon.ico"})
OPEN_TREE = "/static/"


class Authentication:
    """Reads `Authorization: Bearer <API key or JWT>` into `scope["state"]["principal"]`.

    Without credentials the principal is None, and the route decides (`principal_of`). Credentials that are not
    valid are answered at once: 401, or 503 when they cannot be checked. Paths open to everyone are let through
    unseen. Tickets and tokens in the URL are the stream route's own business.
    """

    def __init__(self, app: ASGIApp, verify: Callable[[str], Awaitable[Principal]]) -> None:
        self.app = app
        self.verify = verify

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        try:
            principal = None if is_open(scope["path"]) else await self._principal(scope)
        except GatewayError as error:
            await refuse(error, scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = principal
        if principal is None:
            await self.app(scope, receive, send)
            return
        with structlog.contextvars.bound_contextvars(tenant=principal.tenant):
            await self.app(scope, receive, send)

    async def _principal(self, scope: Scope) -> Principal | None:
        credential = bearer(scope)
        return None if credential is None else await self.verify(credential)


def is_open(path: str) -> bool:
    """Whether a path is for everyone, with whatever credentials."""
    return path in OPEN_PATHS or path.startswith(OPEN_TREE)


def bearer(scope: Scope) -> str | None:
    """Return the credential of `Authorization: Bearer …` (RFC 6750 section 2.1; the scheme in any case), or None.

    Another scheme belongs to somebody in front of us, a proxy with a password of its own.

    Raises:
        Unauthenticated: the header is there twice, or holds no credential.
    """
    values: list[bytes] = [value for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        return None
    if len(values) > 1:
        raise Unauthenticated("Authorization must be sent once")
    scheme, _, credential = values[0].decode("latin-1").strip().partition(" ")
    if scheme.lower() != "bearer":
        return None
    if not credential.strip():
        raise Unauthenticated("Authorization: Bearer holds no credential")
    return credential.strip()
