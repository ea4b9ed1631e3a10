"""Errors as RFC 9457 problem documents, and the last line of defence for those nobody expected.

A problem is `{"type": "urn:gateway:problem:<code>", "title", "status", "detail", "errors"?}`; `errors` lists
`{"pointer", "detail"}` for every wrong field: a JSON pointer into the body, or `?name` for a query parameter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from gateway.errors import (
    BadRequest,
    BodyTooSlow,
    GatewayError,
    MethodNotAllowed,
    NotFound,
    TokenExpired,
    Unauthenticated,
)
from gateway.web.context import trace_of
from gateway.web.responses import json_response

log = structlog.get_logger(__name__)

PROBLEM_JSON = "application/problem+json"
TYPE_PREFIX = "urn:gateway:problem:"
DENIAL = "websocket.http.response"
INTERNAL_ERROR = 1011  # RFC 6455 section 7.4.1

_BY_STATUS: dict[int, type[GatewayError]] = {400: BadRequest, 404: NotFound, 405: MethodNotAllowed}


def problem(error: GatewayError, headers: Mapping[str, str] | None = None) -> Response:
    """Answer an error as a problem document, with `Retry-After` and `WWW-Authenticate` where they belong."""
    return _answer(problem_document(error), error.status, {**_headers(error), **(headers or {})})


def problem_document(error: GatewayError) -> dict[str, object]:
    """Write an error as a problem document."""
    body: dict[str, object] = {
        "type": TYPE_PREFIX + error.code,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
    }
    if error.errors:
        body["errors"] = [{"pointer": fault.pointer, "detail": fault.detail} for fault in error.errors]
    return body


def exception_handlers() -> dict[Any, Any]:
    """Return the handlers for Starlette's `exception_handlers`: our errors and Starlette's own."""
    return {GatewayError: _gateway_error, HTTPException: _http_exception}


class Errors:
    """ASGI middleware around everything that can fail: nothing unexpected gets further out.

    What is not a `GatewayError` is logged with its traceback and the trace's id. If nothing has been sent the
    caller gets a 500 (a WebSocket: 1011) that names only the id; if an answer had begun it stays cut off, as
    the server closes the connection when we return, so that nobody takes the part for the whole. Starlette's
    own last handler raises on to the server, which would print the traceback again.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        sent: list[str] = []  # the kind of the last message: all that matters, and it stays short

        async def remember(message: Message) -> None:
            sent[:] = [message["type"]]
            await send(message)

        try:
            await self.app(scope, receive, remember)
        except (ClientDisconnect, WebSocketDisconnect):
            log.debug("http.client_gone", path=scope["path"])
        except Exception as error:  # noqa: BLE001 - the last line of defence; `_report` logs it
            await _refuse(_report(error, scope), scope, receive, send, sent[0] if sent else None)


def _report(error: Exception, scope: Scope) -> GatewayError:
    """Log what nobody expected and return what the caller may know of it."""
    if isinstance(error, GatewayError):
        return error
    trace = trace_of(scope)
    principal = scope.get("state", {}).get("principal")
    log.error(
        "http.unexpected_error",
        method=scope.get("method", "WEBSOCKET"),
        path=scope["path"],
        tenant=getattr(principal, "tenant", None),
        exc_info=error,
    )
    return GatewayError(f"Something went wrong here; it is logged as {trace.trace_id}" if trace else "")


async def _refuse(error: GatewayError, scope: Scope, receive: Receive, send: Send, last: str | None) -> None:
    if scope["type"] == "http":
        if last is None:
            await problem(error)(scope, receive, send)
    elif last is None:
        await _deny(error, scope, receive, send)
    elif last in {"websocket.accept", "websocket.send"}:
        await send({"type": "websocket.close", "code": INTERNAL_ERROR, "reason": ""})


async def _deny(error: GatewayError, scope: Scope, receive: Receive, send: Send) -> None:
    if DENIAL in scope.get("extensions", {}):
        await problem(error)(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": INTERNAL_ERROR, "reason": ""})


async def refuse(error: GatewayError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer an error from a middleware, before anything else was sent; HTTP or WebSocket handshake."""
    await _refuse(error, scope, receive, send, None)


async def _gateway_error(connection: HTTPConnection, error: Exception) -> Response | None:
    if not isinstance(error, GatewayError):  # Starlette looks handlers up by class: cannot happen
        raise error
    return await _for_connection(connection, problem(error))


async def _http_exception(connection: HTTPConnection, error: Exception) -> Response | None:
    if not isinstance(error, HTTPException):  # as above
        raise error
    return await _for_connection(connection, _from_http(error))


def _from_http(error: HTTPException) -> Response:
    status = error.status_code
    if status < HTTPStatus.BAD_REQUEST:
        return Response(status_code=status, headers=error.headers)
    if status in _BY_STATUS:
        phrase = HTTPStatus(status).phrase
        detail = "" if error.detail == phrase else error.detail
        return problem(_BY_STATUS[status](detail), error.headers)
    title = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Error"
    body = {"type": f"{TYPE_PREFIX}http-{status}", "title": title, "status": status, "detail": error.detail}
    return _answer(body, status, error.headers or {})


async def _for_connection(connection: HTTPConnection, response: Response) -> Response | None:
    """A WebSocket can be answered over HTTP only before it is accepted, and if the server knows how."""
    if not isinstance(connection, WebSocket):
        return response
    if connection.application_state is WebSocketState.CONNECTING:
        if DENIAL in connection.scope.get("extensions", {}):
            return response
        await connection.close(INTERNAL_ERROR)
    elif connection.application_state is WebSocketState.CONNECTED:
        await connection.close(INTERNAL_ERROR)
    return None


def _answer(body: Mapping[str, object], status: int, headers: Mapping[str, str]) -> Response:
    return json_response(body, status, {"Cache-Control": "no-store", **headers}, media_type=PROBLEM_JSON)


def _headers(error: GatewayError) -> dict[str, str]:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(0, math.ceil(error.retry_after)))
    if isinstance(error, BodyTooSlow):
        headers["Connection"] = "close"  # RFC 9110 section 15.5.9
    if isinstance(error, Unauthenticated):
        # RFC 6750 section 3.
        expired = isinstance(error, TokenExpired)
        headers["WWW-Authenticate"] = 'Bearer error="invalid_token"' if expired else "Bearer"
    return headers
