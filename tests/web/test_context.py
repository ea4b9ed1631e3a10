"""The trace: taken over when it is well-formed, made otherwise, told to the caller and to the logs."""

from __future__ import annotations

import re

import httpx
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from gateway.web.context import RequestContext, Trace, new_trace, parse_traceparent, trace_of
from tests.web.asgi import Headers, client, websocket

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("flags", ["00", "01", "ff"])
def test_a_traceparent_is_read(flags: str) -> None:
    header = f"00-{TRACE}-{SPAN}-{flags}"
    assert parse_traceparent(header) == Trace(TRACE, header)


def test_a_later_version_is_handed_on_as_ours() -> None:
    assert parse_traceparent(f"cc-{TRACE}-{SPAN}-01-more") == Trace(TRACE, f"00-{TRACE}-{SPAN}-01")


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_what_is_no_traceparent(header: str) -> None:
    assert parse_traceparent(header) is None


@given(st.text(max_size=80))
def test_any_header_is_survived(header: str) -> None:
    parse_traceparent(header)


def test_our_own_trace_is_a_traceparent() -> None:
    trace = new_trace(TRACE, SPAN)
    assert parse_traceparent(trace.traceparent) == trace


async def _endpoint(request: Request) -> Response:
    trace = trace_of(request.scope)
    bound = structlog.contextvars.get_contextvars()
    return PlainTextResponse(f"{trace.traceparent if trace else ''} {bound.get('trace_id')}")


async def _socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


APP = Starlette(routes=[Route("/", _endpoint), WebSocketRoute("/ws", _socket)], middleware=[Middleware(RequestContext)])


async def get(headers: Headers) -> httpx.Response:
    async with client(APP) as http:
        return await http.get("/", headers=list(headers))


async def test_a_callers_trace_is_carried_on() -> None:
    header = f"00-{TRACE}-{SPAN}-01"
    answer = await get([("traceparent", header)])
    assert answer.headers["x-request-id"] == TRACE
    assert answer.text == f"{header} {TRACE}"


@pytest.mark.parametrize("headers", [[], [("traceparent", "x")], [("traceparent", f"00-{TRACE}-{SPAN}-01")] * 2])
async def test_otherwise_a_trace_begins(headers: list[tuple[str, str]]) -> None:
    answer = await get(headers)
    request_id = answer.headers["x-request-id"]
    assert request_id != TRACE
    assert re.fullmatch(rf"00-{request_id}-[0-9a-f]{{16}}-00 {request_id}", answer.text)


async def test_a_websocket_gets_its_id_on_accept() -> None:
    sent = await websocket(APP, "/ws", headers=[("traceparent", f"00-{TRACE}-{SPAN}-01")])
    assert sent[0]["type"] == "websocket.accept"
    assert (b"x-request-id", TRACE.encode()) in sent[0]["headers"]


async def test_nothing_stays_bound() -> None:
    await get([])
    assert structlog.contextvars.get_contextvars() == {}
    assert trace_of({}) is None
