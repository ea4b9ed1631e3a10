"""Which pages of which origins may use a browser's connection here (RFC 6454, RFC 6455 section 10.2)."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from gateway.auth.authenticator import Authenticator
from gateway.auth.principals import Principal, optional_principal
from gateway.errors import Forbidden, TokenExpired, Unauthenticated
from gateway.settings import Settings

# Whose cookie has expired: a client that may come back with a newer one, and must not become nobody meanwhile.
LAPSED = Principal(tenant="", subject="", kind="token", expires_at=0.0)


def check_origin(headers: Headers, settings: Settings) -> None:
    """Refuse a browser's page that is neither ours nor allowed; raises Forbidden."""
    origin = headers.get("origin")
    if origin is not None and not allowed_origin(origin, headers.get("host", ""), settings.allowed_origins):
        raise Forbidden("This origin may not connect")


def allowed_origin(origin: str | None, host: str, allowed: tuple[str, ...]) -> bool:
    """Whether a page of this origin may open a connection that cookies play no part in.

    Without an `Origin` it is no browser, or a page of our own.
    """
    return origin is None or "*" in allowed or origin in allowed or _same(origin, host)


def trusts_cookies(headers: Headers, allowed: tuple[str, ...], scheme: str) -> bool:
    """Whether a request that a cookie speaks for comes from our own page, or from one that is allowed by name.

    A browser sends cookies whatever page asks, so the page must be known: by `Origin`, or, where browsers leave it
    out (a GET within one origin), by `Sec-Fetch-Site`. A request with neither is not believed.

    `scheme` is the connection's, as the trusted proxies tell it: anyone on the way can write a page of `http://host`,
    so it must not speak with the cookie of `https://host`. The other way round is a proxy that was not named.
    """
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") == "same-origin"
    safe = scheme not in {"https", "wss"} or urlsplit(origin).scheme == "https"
    return origin in allowed or (safe and _same(origin, headers.get("host", "")))


def lends_cookies(settings: Settings) -> bool:
    """Whether pages of other origins may use the cookie: only those that are allowed by name."""
    return settings.cookie is not None and "*" not in settings.allowed_origins


def readable_by(origin: str, settings: Settings) -> list[tuple[bytes, bytes]]:
    """Return the headers that let a page of another origin read an answer, as the CORS middleware writes them."""
    if "*" in settings.allowed_origins:
        return [(b"access-control-allow-origin", b"*")]
    if origin not in settings.allowed_origins:
        return []
    headers = [(b"access-control-allow-origin", origin.encode()), (b"vary", b"Origin")]
    return [*headers, (b"access-control-allow-credentials", b"true")] if lends_cookies(settings) else headers


def _same(origin: str, host: str) -> bool:
    return bool(host) and urlsplit(origin).netloc.lower() == host.lower()


def host_of(connection: HTTPConnection) -> str | None:
    """Return the client's address, as the trusted proxies tell it."""
    client = connection.client
    return client.host if client else None


async def caller_of(connection: HTTPConnection, settings: Settings, authenticator: Authenticator) -> Principal | None:
    """Return who opens a Centrifuge connection, before it has said so itself, or None.

    A cookie that is not good, or that the page may not use, counts as none, and one that has expired as `LAPSED`:
    `connect` may bring a token, and its reply can say what is wrong, which the status of a refused handshake cannot.
    """
    principal = optional_principal(connection.scope)
    if principal is not None:
        return principal
    try:
        return await cookie_principal(connection, settings, authenticator)
    except TokenExpired:
        return LAPSED
    except (Unauthenticated, Forbidden):
        return None


async def cookie_principal(
    connection: HTTPConnection, settings: Settings, authenticator: Authenticator
) -> Principal | None:
    """Return who the cookie `GATEWAY_COOKIE` speaks for, or None without such a cookie.

    Only what opens a connection asks: no request that changes something is ever answered on a cookie's word.

    Raises:
        Forbidden: the page is not one that may use cookies here.
        TokenExpired, Unauthenticated: the cookie holds no token of ours that is still good.
    """
    token = connection.cookies.get(settings.cookie) if settings.cookie else None
    if not token:
        return None
    if not trusts_cookies(connection.headers, settings.allowed_origins, connection.scope.get("scheme", "http")):
        raise Forbidden("This origin may not connect with a cookie")
    principal = await authenticator.verify(token)
    if principal.kind != "token":
        raise Unauthenticated("An API key does not belong into a cookie")
    return principal
