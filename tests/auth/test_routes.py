"""Authentication over HTTP, from the header to the answer, on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import jwt
import pytest
import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Scope
from starlette.websockets import WebSocket

from gateway.auth.authenticator import Authenticator
from gateway.auth.keys import KeyStore
from gateway.auth.middleware import Authentication, bearer, is_open
from gateway.auth.principals import optional_principal, principal_of
from gateway.auth.revocation import Revocations
from gateway.auth.routes import AuthServices, routes
from gateway.auth.tickets import Tickets
from gateway.auth.tokens import Claims, Tokens
from gateway.errors import Unauthenticated
from gateway.settings import Settings
from gateway.store.redis import Store
from gateway.web.context import RequestContext
from gateway.web.problems import Errors, exception_handlers
from tests.auth.conftest import ROOT_KEY
from tests.web.asgi import client, websocket

FAR = 4_000_000_000
TOKENS = Tokens(b"s" * 32)


async def _whoami(request: Request) -> Response:
    principal = optional_principal(request.scope)
    bound = structlog.contextvars.get_contextvars().get("tenant")
    return JSONResponse({"subject": principal.subject if principal else None, "bound": bound})


async def _socket(session: WebSocket) -> None:
    principal_of(session.scope)
    await session.accept()


@dataclass
class World:
    http: httpx.AsyncClient
    app: Starlette
    keys: KeyStore
    tickets: Tickets

    async def call(self, method: str, path: str, key: str | None = ROOT_KEY, json: object = None) -> httpx.Response:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return await self.http.request(method, path, headers=headers, json=json)


def build(store: Store, settings: Settings) -> World:
    keys = KeyStore(store, settings)
    revocations = Revocations(store)
    tickets = Tickets(store, keys, revoked=revocations.revoked)
    app = Starlette(
        routes=[
            *routes(AuthServices(keys, tickets, TOKENS, revocations)),
            Route("/who", _whoami),
            Route("/healthz", _whoami),
            Route("/static/{name}", _whoami),
            WebSocketRoute("/ws", _socket),
        ],
        middleware=[
            Middleware(RequestContext),
            Middleware(Errors),
            Middleware(Authentication, verify=Authenticator(keys, TOKENS, revoked=revocations.revoked).verify),
        ],
        exception_handlers=exception_handlers(),
    )
    return World(client(app), app, keys, tickets)


@pytest.fixture
async def world(store: Store, settings: Settings) -> AsyncIterator[World]:
    built = build(store, settings)
    async with built.http:
        yield built


async def test_who_is_calling(world: World) -> None:
    token = TOKENS.mint(Claims(sub="ann", exp=FAR, tenant="acme"))
    assert (await world.call("GET", "/who")).json() == {"subject": "root", "bound": "default"}
    assert (await world.call("GET", "/who", token)).json() == {"subject": "ann", "bound": "acme"}
    assert (await world.call("GET", "/who", None)).json() == {"subject": None, "bound": None}


@pytest.mark.parametrize("header", ["bearer", "BEARER ", "Bearer  "])
async def test_the_scheme_is_read_in_any_case(world: World, header: str) -> None:
    answer = await world.http.get("/who", headers={"Authorization": f"{header} {ROOT_KEY}"})
    assert answer.json()["subject"] == "root"


@pytest.mark.parametrize("credential", ["wrong", "gk_wrong", "a.b.c", "x" * 20_000])
async def test_wrong_credentials_are_refused_at_once(world: World, credential: str) -> None:
    for path in ("/who", "/no/such/path"):
        answer = await world.call("GET", path, credential)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"
        assert credential not in answer.text


async def test_an_expired_token_is_told_so(world: World) -> None:
    answer = await world.call("GET", "/who", TOKENS.mint(Claims(sub="ann", exp=1)))
    assert answer.json()["type"] == "urn:gateway:problem:token-expired"


async def test_open_paths_look_at_no_credentials(world: World) -> None:
    for path in ("/healthz", "/static/app.js"):
        assert (await world.call("GET", path, "wrong")).json()["subject"] is None
    assert is_open("/")
    assert not is_open("/v1/keys")
    assert not is_open("/staticky")


async def test_redis_away_is_503(store_away: Store, settings: Settings) -> None:
    world = build(store_away, settings)
    async with world.http:
        assert (await world.call("GET", "/who", "gk_key")).status_code == 503
        assert (await world.call("GET", "/who")).status_code == 200


def headers(*values: str) -> Scope:
    return {"type": "http", "headers": [(b"authorization", value.encode()) for value in values]}


def test_what_the_header_may_hold() -> None:
    assert bearer(headers()) is None
    assert bearer(headers("Basic abc")) is None
    assert bearer(headers("Bearer a")) == "a"
    for wrong in (["Bearer"], ["Bearer  "], ["Bearer a", "Bearer b"]):
        with pytest.raises(Unauthenticated):
            bearer(headers(*wrong))


async def test_a_websocket_is_authenticated_too(world: World) -> None:
    (accept, *_) = await websocket(world.app, "/ws", headers=[("Authorization", f"Bearer {ROOT_KEY}")])
    assert accept["type"] == "websocket.accept"
    (denied, *_) = await websocket(world.app, "/ws", headers=[("Authorization", "Bearer wrong")])
    assert denied["status"] == 401
    (denied, *_) = await websocket(world.app, "/ws")
    assert denied["status"] == 401


async def test_a_token_is_of_the_keys_tenant(world: World) -> None:
    _, key = await world.keys.create("acme", "tokens", ["tokens:create"])
    wanted = {
        "sub": "ann",
        "ttl": 60,
        "channels": ["news"],
        "subs": {"chat:1": {}},
        "caps": [{"channels": ["a"], "allow": ["sub"]}],
        "info": {"name": "Ann"},
    }
    answer = await world.call("POST", "/v1/tokens", key, wanted)
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    principal = TOKENS.verify(answer.json()["token"], 0)
    assert (principal.tenant, principal.subject, principal.info) == ("acme", "ann", b'{"name":"Ann"}')
    assert principal.channels == ("news", "chat:1")
    assert answer.json()["expires_at"].endswith("Z")


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/sub"]),
        ({"sub": "a", "tenant": "other"}, ["/tenant"]),
        ({"sub": "a", "ttl": 0}, ["/ttl"]),
        ({"sub": "a", "ttl": 31 * 86_400}, ["/ttl"]),
        (
            {"sub": 1, "channels": ["b c"], "caps": [{"channels": [], "allow": ["x"]}]},
            ["/sub", "/channels/0", "/caps/0/allow/0"],
        ),
    ],
)
async def test_wrong_fields_of_a_token(world: World, body: object, pointers: list[str]) -> None:
    answer = await world.call("POST", "/v1/tokens", json=body)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == pointers


async def test_a_token_is_revoked_over_http(world: World) -> None:
    _, key = await world.keys.create("acme", "tokens", ["tokens:create"])
    first, second, third = [
        (await world.call("POST", "/v1/tokens", key, {"sub": "ann"})).json()["token"] for _ in "123"
    ]
    jti = jwt.decode(first, options={"verify_signature": False})["jti"]
    answer = await world.call("POST", "/v1/tokens/revoke", key, {"jti": jti, "ttl": 3600})
    assert answer.status_code == 200
    assert answer.json()["revoked_at"] < answer.json()["remembered_until"]
    refused = await world.call("GET", "/who", first)
    assert (refused.status_code, refused.json()["type"]) == (401, "urn:gateway:problem:token-revoked")
    assert (await world.call("GET", "/who", second)).status_code == 200
    assert (await world.call("POST", "/v1/tokens/revoke", key, {"sub": "ann"})).status_code == 200
    for token in (second, third):
        assert (await world.call("GET", "/who", token)).status_code == 401
    later = (await world.call("POST", "/v1/tokens", key, {"sub": "ann"})).json()["token"]
    assert (await world.call("GET", "/who", later)).status_code == 200


async def test_a_key_revokes_only_in_its_tenant(world: World) -> None:
    _, key = await world.keys.create("acme", "tokens", ["tokens:create"])
    token = TOKENS.mint(Claims(sub="ann", jti="j", exp=FAR, tenant="beta"))
    for what in ({"jti": "j"}, {"sub": "ann"}):
        assert (await world.call("POST", "/v1/tokens/revoke", key, what)).status_code == 200
    assert (await world.call("GET", "/who", token)).status_code == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/jti"),
        ({"jti": "a", "sub": "b"}, "/jti"),
        ({"jti": ""}, "/jti"),
        ({"sub": ""}, "/sub"),
        ({"sub": "x" * 300}, "/sub"),
        ({"sub": "a", "tenant": "beta"}, "/tenant"),
        ({"sub": "a", "ttl": 1}, "/ttl"),
        ({"sub": "a", "ttl": 400 * 86_400}, "/ttl"),
    ],
)
async def test_wrong_fields_of_a_revocation(world: World, body: object, pointer: str) -> None:
    answer = await world.call("POST", "/v1/tokens/revoke", json=body)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_scopes_guard_the_routes(world: World) -> None:
    _, key = await world.keys.create("acme", "reader", ["jobs:read"])
    token = TOKENS.mint(Claims(sub="ann", exp=FAR))
    for method, path, scope in (
        ("POST", "/v1/tokens", "tokens:create"),
        ("POST", "/v1/tokens/revoke", "tokens:create"),
        ("GET", "/v1/keys", "keys:manage"),
        ("POST", "/v1/keys", "keys:manage"),
        ("DELETE", "/v1/keys/key_x", "keys:manage"),
    ):
        for credential in (key, token):
            answer = await world.call(method, path, credential, {})
            assert answer.status_code == 403
            assert scope in answer.json()["detail"]
        assert (await world.call(method, path, None, {})).status_code == 401


async def test_a_ticket_is_the_callers(world: World) -> None:
    token = TOKENS.mint(Claims(sub="ann", exp=FAR, tenant="acme"))
    answer = await world.call("POST", "/v1/tickets", token)
    assert answer.status_code == 201
    ticket = answer.json()["ticket"]
    assert answer.json()["url"] == f"/v1/stream?ticket={ticket}"
    assert answer.headers["cache-control"] == "no-store"
    principal = await world.tickets.open(ticket, proven=False)
    assert (principal.tenant, principal.subject) == ("acme", "ann")
    assert (await world.call("POST", "/v1/tickets", None)).status_code == 401


async def test_the_life_of_a_key(world: World) -> None:
    made = await world.call("POST", "/v1/keys", json={"name": "ci", "scopes": ["keys:manage", "jobs:read"]})
    assert made.status_code == 201
    key = made.json()["key"]
    assert made.json()["tenant"] == "default"
    listed = (await world.call("GET", "/v1/keys", key)).json()
    assert [item["id"] for item in listed["items"]] == [made.json()["id"]]
    assert "key" not in listed["items"][0]
    path = f"/v1/keys/{made.json()['id']}"
    assert (await world.call("DELETE", path)).status_code == 204
    assert (await world.call("DELETE", path)).status_code == 404
    assert (await world.call("GET", "/v1/keys", key)).status_code == 401


async def test_a_key_grants_only_what_it_holds(world: World) -> None:
    _, key = await world.keys.create("acme", "manager", ["keys:manage", "jobs:read"])
    granted = await world.call("POST", "/v1/keys", key, {"name": "a", "scopes": ["jobs:read"]})
    assert (granted.status_code, granted.json()["tenant"]) == (201, "acme")
    for scope in ("jobs:write", "*"):
        answer = await world.call("POST", "/v1/keys", key, {"name": "a", "scopes": ["jobs:read", scope]})
        assert answer.status_code == 403
        assert scope in answer.json()["detail"]
    answer = await world.call("POST", "/v1/keys", key, {"name": "", "scopes": ["fly"]})
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/name", "/scopes/0"]


async def test_only_the_root_key_reaches_other_tenants(world: World) -> None:
    made = await world.call("POST", "/v1/keys", json={"name": "a", "scopes": ["*"], "tenant": "acme"})
    assert made.json()["tenant"] == "acme"
    key = made.json()["key"]
    assert (await world.call("GET", "/v1/keys?tenant=acme")).json()["items"][0]["id"] == made.json()["id"]
    assert (await world.call("GET", "/v1/keys?tenant=a%20b")).status_code == 422
    assert (await world.call("GET", "/v1/keys?tenant=default", key)).status_code == 403
    assert (await world.call("DELETE", "/v1/keys/x?tenant=default", key)).status_code == 403
    wanted = {"name": "a", "scopes": ["*"], "tenant": "beta"}
    assert (await world.call("POST", "/v1/keys", key, wanted)).status_code == 403
    assert (await world.call("DELETE", f"/v1/keys/{made.json()['id']}?tenant=acme")).status_code == 204
