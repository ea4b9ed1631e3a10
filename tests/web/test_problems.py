"""What a caller is told when something fails, over HTTP and over a WebSocket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from gateway.errors import (
    FieldError,
    Forbidden,
    GatewayError,
    InvalidFields,
    QueueFull,
    TokenExpired,
    Unauthenticated,
)
from gateway.web.context import RequestContext
from gateway.web.problems import Errors, exception_handlers, problem, problem_document
from tests.support.waiting import eventually
from tests.web.asgi import client, websocket

SECRET = "the innermost secret"


async def _raise(request: Request) -> Response:
    kind = request.path_params["kind"]
    errors: dict[str, Exception] = {
        "fields": InvalidFields(errors=[FieldError("/a", "is required")]),
        "full": QueueFull(retry_after=1.2),
        "http": HTTPException(418, "short and stout", {"X-Pot": "1"}),
        "http404": HTTPException(404),
        "http304": HTTPException(304),
        "gone": ClientDisconnect(),
    }
    raise errors.get(kind, RuntimeError(SECRET))


async def _partial(_: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError(SECRET)

    return StreamingResponse(body())


async def _get(_: Request) -> Response:
    return PlainTextResponse("ok")


async def _socket(websocket: WebSocket) -> None:
    kind, when = websocket.path_params["kind"], websocket.path_params["when"]
    if when == "after":
        await websocket.accept()
    if kind == "known":
        raise Forbidden("not yours")
    if kind == "http":
        raise HTTPException(404)
    raise RuntimeError(SECRET)


APP = Starlette(
    routes=[
        Route("/raise/{kind}", _raise),
        Route("/partial", _partial),
        Route("/get", _get, methods=["GET"]),
        WebSocketRoute("/ws/{kind}/{when}", _socket),
    ],
    middleware=[Middleware(RequestContext), Middleware(Errors)],
    exception_handlers=exception_handlers(),
)


async def call(method: str, path: str) -> httpx.Response:
    async with client(APP) as http:
        return await http.request(method, path)


async def test_a_document_has_the_members_of_the_rfc() -> None:
    answer = await call("GET", "/raise/fields")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "urn:gateway:problem:invalid-fields",
        "title": "Some fields are not valid",
        "status": 422,
        "detail": "Some fields are not valid",
        "errors": [{"pointer": "/a", "detail": "is required"}],
    }
    assert answer.json() == problem_document(InvalidFields(errors=[FieldError("/a", "is required")]))


def _subclasses(kind: type[GatewayError]) -> list[type[GatewayError]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in _subclasses(child))]


@pytest.mark.parametrize("kind", _subclasses(GatewayError))
def test_every_error_has_a_document(kind: type[GatewayError]) -> None:
    answer = problem(kind("why"))
    assert answer.status_code == kind.status
    assert problem_document(kind("why"))["type"] == f"urn:gateway:problem:{kind.code}"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("after", "header"), [(0.1, "1"), (1.2, "2"), (30, "30"), (-5, "0"), (None, None)])
def test_retry_after_is_whole_seconds(after: float | None, header: str | None) -> None:
    assert problem(QueueFull(retry_after=after)).headers.get("retry-after") == header


def test_a_401_says_how_to_authenticate() -> None:
    assert problem(Unauthenticated()).headers["www-authenticate"] == "Bearer"
    assert problem(TokenExpired()).headers["www-authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.parametrize(
    ("path", "code", "status"), [("/none", "not-found", 404), ("/raise/http404", "not-found", 404)]
)
async def test_not_found(path: str, code: str, status: int) -> None:
    answer = await call("GET", path)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:gateway:problem:{code}")


async def test_method_not_allowed_keeps_allow() -> None:
    answer = await call("POST", "/get")
    assert answer.status_code == 405
    assert answer.json()["type"] == "urn:gateway:problem:method-not-allowed"
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_other_http_errors_keep_status_and_headers() -> None:
    answer = await call("GET", "/raise/http")
    assert (answer.status_code, answer.headers["x-pot"]) == (418, "1")
    assert answer.json()["detail"] == "short and stout"
    assert (await call("GET", "/raise/http304")).status_code == 304


async def test_the_unexpected_is_logged_and_hidden() -> None:
    with structlog.testing.capture_logs() as logs:
        answer = await call("GET", "/raise/other")
    request_id = answer.headers["x-request-id"]
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert request_id in answer.json()["detail"]
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text
    (entry,) = logs
    assert entry["event"] == "http.unexpected_error"
    assert entry["path"] == "/raise/other"
    assert str(entry["exc_info"]) == SECRET


async def test_a_known_error_from_a_middleware_is_answered() -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise Forbidden("no")

    async with client(Errors(app)) as http:
        assert (await http.get("/")).status_code == 403


async def test_a_client_that_left_is_no_error() -> None:
    sent: list[Message] = []

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ClientDisconnect

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    with structlog.testing.capture_logs() as logs:
        await Errors(app)({"type": "http", "path": "/", "headers": []}, receive, send)
    assert sent == []
    assert [entry["log_level"] for entry in logs] == ["debug"]


@pytest.mark.parametrize(("kind", "status"), [("known", 403), ("http", 404), ("other", 500)])
async def test_a_websocket_is_denied_before_accept(kind: str, status: int) -> None:
    start, body = await websocket(APP, f"/ws/{kind}/before")
    assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert body["type"] == "websocket.http.response.body"


@pytest.mark.parametrize("kind", ["known", "http", "other"])
async def test_a_websocket_is_closed_after_accept(kind: str) -> None:
    accept, close = await websocket(APP, f"/ws/{kind}/after")
    assert accept["type"] == "websocket.accept"
    assert (close["type"], close["code"]) == ("websocket.close", 1011)


@pytest.mark.parametrize("kind", ["known", "other"])
async def test_a_server_without_denial_responses(kind: str) -> None:
    sent = await websocket(APP, f"/ws/{kind}/before", denial=False)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_lifespan_passes() -> None:
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    async def nothing() -> Message:
        return {}

    async def send(_: Message) -> None:
        return

    await RequestContext(Errors(app))({"type": "lifespan"}, nothing, send)
    assert seen == ["lifespan"]


@asynccontextmanager
async def _served() -> AsyncIterator[str]:
    config = uvicorn.Config(APP, log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with asyncio.TaskGroup() as group:
            group.create_task(server._serve([listener]))
            await eventually(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            server.should_exit = True


async def test_under_uvicorn_half_an_answer_is_cut_off_and_nothing_is_printed_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with _served() as url, httpx.AsyncClient(base_url=url) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/partial")
            assert (await client.get("/raise/other")).status_code == 500
            assert (await client.get("/get")).status_code == 200
    assert [entry["event"] for entry in logs] == ["http.unexpected_error"] * 2
    assert "Traceback" not in caplog.text
    assert SECRET not in caplog.text
