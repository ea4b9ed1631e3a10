"""The whole error tree, in one place.

Every error that can reach a caller is a `GatewayError`: a stable `code`, an HTTP `status`, and whether the
same request may succeed later (`retryable`). The HTTP edge turns them into RFC 9457 problem documents, the
WebSocket edge into protocol error codes; nothing else decides what a caller is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple


class FieldError(NamedTuple):
    """One wrong field: a JSON pointer (RFC 6901) into the request, and the rule it breaks."""

    pointer: str
    detail: str


class GatewayError(Exception):
    """Base of everything the gateway refuses or fails at.

    Attributes:
        detail: a sentence for the caller; never holds a secret or an internal name.
        errors: the wrong fields, when the request itself is at fault.
        retry_after: seconds after which trying again makes sense, if known.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False

    def __init__(
        self, detail: str = "", *, errors: Sequence[FieldError] = (), retry_after: float | None = None
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.errors = tuple(errors)
        self.retry_after = retry_after


class BadRequest(GatewayError):
    """The request cannot be read: malformed JSON, a bad header, a bad query parameter."""

    code, status, title = "bad-request", 400, "The request cannot be read"


class Unauthenticated(GatewayError):
    """No credentials, or credentials that are not ours."""

    code, status, title = "unauthenticated", 401, "Credentials are missing or not valid"


class TokenExpired(Unauthenticated):
    """The token was ours once."""

    code, title = "token-expired", "The token has expired"


class TokenRevoked(TokenExpired):
    """The token was ours, and somebody ended it before its time: a new one is needed, as after its end."""

    code, title = "token-revoked", "The token has been revoked"


class Forbidden(GatewayError):
    """The caller is known and may not do this."""

    code, status, title = "forbidden", 403, "Not allowed"


class NotFound(GatewayError):
    """There is no such thing, or it is not the caller's to know about."""

    code, status, title = "not-found", 404, "Not found"


class MethodNotAllowed(GatewayError):
    """The path exists, the method does not."""

    code, status, title = "method-not-allowed", 405, "Method not allowed"


class Conflict(GatewayError):
    """The thing is not in a state in which this can be done."""

    code, status, title = "conflict", 409, "Conflict"


class IdempotencyInFlight(Conflict):
    """The first request with this Idempotency-Key is still being answered."""

    code, title = "idempotency-in-flight", "A request with this Idempotency-Key is in progress"
    retryable = True


class BodyTooLarge(GatewayError):
    """The body, or one event in it, is over the limit."""

    code, status, title = "body-too-large", 413, "The body is too large"


class BodyTooSlow(GatewayError):
    """The body did not arrive in time."""

    code, status, title = "body-too-slow", 408, "The body takes too long"
    retryable = True


class UnsupportedMediaType(GatewayError):
    """The body is not JSON."""

    code, status, title = "unsupported-media-type", 415, "The body must be application/json"


class InvalidFields(GatewayError):
    """The request can be read, and fields of it are wrong; `errors` names every one."""

    code, status, title = "invalid-fields", 422, "Some fields are not valid"


class UnknownTaskType(InvalidFields):
    """No worker ever registered this job type."""

    code, title = "unknown-job-type", "No worker has registered this job type"


class IdempotencyMismatch(GatewayError):
    """The Idempotency-Key was used before with another request."""

    code, status, title = "idempotency-mismatch", 422, "This Idempotency-Key was used with another request"


class QuotaExceeded(GatewayError):
    """The tenant has as many open jobs as it may have."""

    code, status, title = "quota-exceeded", 429, "Too many open jobs"
    retryable = True


class RateLimited(GatewayError):
    """The caller sends faster than it may."""

    code, status, title = "rate-limited", 429, "Too many requests"
    retryable = True


class TooManyConnections(RateLimited):
    """This process, the tenant or the address has as many connections as it may have."""

    code, title = "too-many-connections", "Too many connections"


class Unavailable(GatewayError):
    """Something the gateway depends on is away; nothing was accepted."""

    code, status, title = "unavailable", 503, "Temporarily unavailable"
    retryable = True


class KeysUnavailable(Unavailable):
    """An issuer's public keys have not been had yet, or not for too long."""

    code, title = "keys-unavailable", "The token's issuer cannot be asked for its keys"


class StoreUnavailable(Unavailable):
    """Redis is away."""

    code, title = "store-unavailable", "The store is temporarily unavailable"


class FilesUnavailable(Unavailable):
    """Where attachments are kept is away."""

    code, title = "files-unavailable", "The store of attachments is temporarily unavailable"


class QueueFull(Unavailable):
    """The job queue refused the message; the job was withdrawn."""

    code, title = "queue-full", "The job queue is full"


class Overloaded(Unavailable):
    """There are as many open jobs as there may be, of all tenants."""

    code, title = "overloaded", "Too many jobs are waiting"


class QueueUnavailable(Unavailable):
    """Whether the broker has the message is unknown: away, silent, or it returned it."""

    code, title = "queue-unavailable", "The job queue is temporarily unavailable"


class StaleFence(GatewayError):
    """Another worker owns this job now; the caller's work on it must stop."""

    code, status, title = "stale-fence", 409, "Another worker owns this job"


class PositionLost(GatewayError):
    """The history no longer reaches back to the position, or its epoch is another."""

    code, status, title = "position-lost", 410, "The history does not reach back to this position"


class ConfigurationError(Exception):
    """A setting is unknown, malformed or contradicts another; the message names it. The start stops."""
