"""The error, close and unsubscribe codes of the Centrifuge protocol (docs: centrifugal.dev, "codes")."""

from __future__ import annotations

from typing import NamedTuple

from gateway.errors import (
    BadRequest,
    Forbidden,
    GatewayError,
    InvalidFields,
    NotFound,
    PositionLost,
    RateLimited,
    TokenExpired,
    Unauthenticated,
    Unavailable,
)


class Refusal(NamedTuple):
    """An error reply; `temporary` invites the client to try again."""

    code: int
    message: str
    temporary: bool = False


INTERNAL = Refusal(100, "internal server error", temporary=True)
UNAUTHORIZED = Refusal(101, "unauthorized")
UNKNOWN_CHANNEL = Refusal(102, "unknown channel")
PERMISSION_DENIED = Refusal(103, "permission denied")
METHOD_NOT_FOUND = Refusal(104, "method not found")
ALREADY_SUBSCRIBED = Refusal(105, "already subscribed")
LIMIT_EXCEEDED = Refusal(106, "limit exceeded")
BAD_REQUEST = Refusal(107, "bad request")
NOT_AVAILABLE = Refusal(108, "not available")
TOKEN_EXPIRED = Refusal(109, "token expired")
TOO_MANY_REQUESTS = Refusal(111, "too many requests", temporary=True)
UNRECOVERABLE = Refusal(112, "unrecoverable position")


class Disconnect(NamedTuple):
    """A close by us. Clients reconnect on 3000 to 3499 and never on 3500 to 3999."""

    code: int
    reason: str


SHUTDOWN = Disconnect(3001, "shutdown")
SERVER_ERROR = Disconnect(3004, "internal server error")
CONNECTION_EXPIRED = Disconnect(3005, "connection expired")
SLOW = Disconnect(3008, "slow")
INSUFFICIENT_STATE = Disconnect(3010, "insufficient state")
NO_PONG = Disconnect(3012, "no pong")
STATE_INVALIDATED = Disconnect(3014, "token revoked")  # clients drop their token and get a new one, or stop
TOO_MANY = Disconnect(3013, "too many requests")
INVALID_TOKEN = Disconnect(3500, "invalid token")
BAD_PROTOCOL = Disconnect(3501, "bad request")
STALE = Disconnect(3502, "stale")
CHANNEL_LIMIT = Disconnect(3505, "channel limit")
TOO_MANY_ERRORS = Disconnect(3509, "too many errors")


class Unsubscribe(NamedTuple):
    """A push that ends one subscription; from 2500 on the client subscribes again."""

    code: int
    reason: str


SERVER_UNSUBSCRIBED = Unsubscribe(2000, "server unsubscribe")
INSUFFICIENT = Unsubscribe(2500, "insufficient state")
SUBSCRIPTION_EXPIRED = Unsubscribe(2501, "subscription expired")
SUBSCRIPTION_INVALIDATED = Unsubscribe(2502, "token revoked")

_BY_ERROR: tuple[tuple[type[GatewayError], Refusal], ...] = (
    (TokenExpired, TOKEN_EXPIRED),
    (Unauthenticated, UNAUTHORIZED),
    (Forbidden, PERMISSION_DENIED),
    (NotFound, UNKNOWN_CHANNEL),
    (PositionLost, UNRECOVERABLE),
    (RateLimited, TOO_MANY_REQUESTS),
    (InvalidFields, BAD_REQUEST),
    (BadRequest, BAD_REQUEST),
    (Unavailable, INTERNAL),
)


def refusal_of(error: GatewayError) -> Refusal:
    """Return what a WebSocket client is told about one of our errors."""
    return next((refusal for kind, refusal in _BY_ERROR if isinstance(error, kind)), INTERNAL)


_MAX_MESSAGE = 500
# HTTP statuses as protocol errors. Others stand for themselves: 400 to 1999 are free for applications to use.
_BY_STATUS = {
    400: BAD_REQUEST,
    401: UNAUTHORIZED,
    403: PERMISSION_DENIED,
    413: BAD_REQUEST,
    415: BAD_REQUEST,
    422: BAD_REQUEST,
    429: TOO_MANY_REQUESTS,
    500: INTERNAL,
    503: INTERNAL,
}


def told(error: GatewayError) -> Refusal:
    """Return what the caller of an `rpc` is told: a code, and the sentence HTTP would have told."""
    code = _BY_STATUS[error.status].code if error.status in _BY_STATUS else error.status
    fields = "; ".join(f"{field.pointer or '/'} {field.detail}" for field in error.errors)
    message = f"{error.detail}: {fields}" if fields else error.detail
    return Refusal(code, message[:_MAX_MESSAGE], temporary=error.retryable)
