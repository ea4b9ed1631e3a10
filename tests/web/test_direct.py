"""Known handshakes go past the routes, and nothing else does."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from gateway.errors import Forbidden
from gateway.web.context import RequestContext
from gateway.web.direct import Direct
from gateway.web.problems import Errors, exception_handlers
from tests.web.asgi import client, websocket


class _Endpoint:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/forbidden":
            raise Forbidden("not you")
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "direct", "headers": []})


_endpoint = _Endpoint()


async def _routed(socket: WebSocket) -> None:
    await socket.accept("routed")


def application(endpoints: dict[str, ASGIApp]) -> Starlette:
    routes = [
        WebSocketRoute("/ws", _routed),
        Route("/ws", lambda _: PlainTextResponse("page")),
        WebSocketRoute("/forbidden", _endpoint),
    ]
    middleware = [Middleware(RequestContext), Middleware(Errors), Middleware(Direct, endpoints=endpoints)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers=exception_handlers())


async def test_a_known_path_goes_to_its_endpoint() -> None:
    endpoints: dict[str, ASGIApp] = {}
    app = application(endpoints)
    assert (await websocket(app, "/ws"))[0]["subprotocol"] == "routed"
    endpoints["/ws"] = _endpoint
    assert (await websocket(app, "/ws"))[0]["subprotocol"] == "direct"


async def test_requests_and_other_paths_go_to_the_routes() -> None:
    app = application({"/ws": _endpoint})
    async with client(app) as http:
        assert (await http.get("/ws")).text == "page"
    assert (await websocket(app, "/ws/"))[0]["type"] != "websocket.accept"


@pytest.mark.parametrize("denial", [True, False])
async def test_what_is_refused_is_answered_as_behind_the_routes(*, denial: bool) -> None:
    headers = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")]
    direct, routed = application({"/forbidden": _endpoint}), application({})
    sent = [await websocket(app, "/forbidden", headers=headers, denial=denial) for app in (direct, routed)]
    assert sent[0] == sent[1]
    assert sent[0][0]["type"] == ("websocket.http.response.start" if denial else "websocket.close")
