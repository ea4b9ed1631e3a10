"""What the submit script refuses, as errors for the caller. Pure."""

from __future__ import annotations

from gateway.errors import (
    FieldError,
    GatewayError,
    IdempotencyInFlight,
    IdempotencyMismatch,
    QuotaExceeded,
    UnknownTaskType,
)

QUOTA_RETRY = 5.0


def refusal(kind: str, type_: str) -> GatewayError:
    """Return the error that `submit.lua` means, for a job of this type."""
    match kind:
        case "unknown-type":
            rule = f"no worker has registered {type_!r}"
            return UnknownTaskType(errors=[FieldError("/type", rule)])
        case "quota":
            return QuotaExceeded("the tenant has too many open jobs", retry_after=QUOTA_RETRY)
        case "mismatch":
            return IdempotencyMismatch()
        case "in-flight":
            return IdempotencyInFlight(retry_after=1)
        case _:
            raise AssertionError(kind)
