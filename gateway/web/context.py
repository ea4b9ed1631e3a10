"""Every request's trace: W3C `traceparent` in, `X-Request-Id` out, and the id on every log line between."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADER = b"traceparent"
_STARTS = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})
_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<rest>-.*)?\Z"
)


class Trace(NamedTuple):
    """Where a request belongs: the trace's id (32 hex digits) and the `traceparent` to hand on."""

    trace_id: str
    traceparent: str


def parse_traceparent(header: str) -> Trace | None:
    """Read a `traceparent` header (W3C Trace Context, section 3.2), or None when it is not one."""
    found = _TRACEPARENT.match(header)
    if found is None or (found["version"] == "00" and found["rest"]):
        return None
    # A later version is handed on as the one we know (section 3.2.4).
    return Trace(found["trace"], f"00-{found['trace']}-{found['span']}-{found['flags']}")


def new_trace(trace_id: str, span_id: str) -> Trace:
    """Begin a trace of our own; not sampled: nobody has asked for it to be recorded."""
    return Trace(trace_id, f"00-{trace_id}-{span_id}-00")


def random_trace() -> Trace:
    """Begin a trace with ids of its own."""
    digits = secrets.token_hex(24)  # one system call for both
    return new_trace(digits[:32], digits[32:])


def trace_of(scope: Mapping[str, Any]) -> Trace | None:
    """Return the trace `RequestContext` gave to a request."""
    trace = scope.get("state", {}).get("trace")
    return trace if isinstance(trace, Trace) else None


class RequestContext:
    """Outermost ASGI middleware: sets `scope["state"]["trace"]`, binds `trace_id`, answers `X-Request-Id`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        trace = _from_headers(scope) or random_trace()
        scope.setdefault("state", {})["trace"] = trace
        request_id = (b"x-request-id", trace.trace_id.encode())

        async def send_with_id(message: Message) -> None:
            if message["type"] in _STARTS:
                message = {**message, "headers": [*message.get("headers", ()), request_id]}
            await send(message)

        bound = structlog.contextvars.bind_contextvars(trace_id=trace.trace_id)
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            structlog.contextvars.reset_contextvars(**bound)


def _from_headers(scope: Scope) -> Trace | None:
    values = [value for name, value in scope["headers"] if name == _HEADER]
    # More than one is as good as none (section 3.2.1).
    return parse_traceparent(values[0].decode("latin-1")) if len(values) == 1 else None
