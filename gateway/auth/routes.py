"""Routes: tokens, tickets, API keys."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.capabilities import has_scope
from gateway.auth.keys import ROOT, Key, KeyStore, require
from gateway.auth.principals import Capability, Principal, Scope, principal_of
from gateway.auth.revocation import MAX_REMEMBERED, REMEMBERED, Revocations
from gateway.auth.tickets import Tickets
from gateway.auth.tokens import ChannelName, Claims, TenantName, Tokens
from gateway.errors import FieldError, Forbidden, InvalidFields
from gateway.events import MAX_CHANNELS, check_tenant, new_id
from gateway.web.bodies import read_json
from gateway.web.pagination import Query, page_body
from gateway.web.responses import json_response, rfc3339

log = structlog.get_logger(__name__)

DEFAULT_TTL = 3600
MAX_TTL = 30 * 86_400
_PRIVATE = {"Cache-Control": "no-store"}  # RFC 6749 section 5.1: answers that hold a credential

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Subject = Annotated[str, msgspec.Meta(max_length=256)]


@dataclass(frozen=True)
class AuthServices:
    """What the routes need."""

    keys: KeyStore
    tickets: Tickets
    tokens: Tokens
    revocations: Revocations


class TokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/tokens`; `ttl` in seconds, the rest are the claims of the same name."""

    sub: Subject
    ttl: Annotated[int, msgspec.Meta(ge=1, le=MAX_TTL)] = DEFAULT_TTL
    channels: Annotated[tuple[ChannelName, ...], msgspec.Meta(max_length=MAX_CHANNELS)] = ()
    subs: Annotated[dict[ChannelName, msgspec.Raw], msgspec.Meta(max_length=MAX_CHANNELS)] = {}
    caps: Annotated[tuple[Capability, ...], msgspec.Meta(max_length=100)] = ()
    info: msgspec.Raw = msgspec.Raw(b"")


class RevokeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/tokens/revoke`: one of `jti` and `sub`; `ttl` is how long it is remembered, in seconds.

    It must not be shorter than the rest of the token's life, or the longest life of the user's tokens.
    """

    jti: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    sub: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    ttl: Annotated[int, msgspec.Meta(ge=60, le=MAX_REMEMBERED)] = REMEMBERED


class KeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/keys`; `tenant` only from the root key, which belongs to all of them."""

    name: Name
    scopes: Annotated[list[Scope], msgspec.Meta(min_length=1, max_length=20)]
    tenant: TenantName | None = None


def routes(services: AuthServices) -> list[Route]:
    """Return the routes."""
    handlers = _Handlers(services)
    return [
        Route("/v1/tokens", handlers.create_token, methods=["POST"]),
        Route("/v1/tokens/revoke", handlers.revoke_token, methods=["POST"]),
        Route("/v1/tickets", handlers.create_ticket, methods=["POST"]),
        Route("/v1/keys", handlers.list_keys, methods=["GET"]),
        Route("/v1/keys", handlers.create_key, methods=["POST"]),
        Route("/v1/keys/{id}", handlers.revoke_key, methods=["DELETE"]),
    ]


class _Handlers:
    def __init__(self, services: AuthServices) -> None:
        self.keys = services.keys
        self.tickets = services.tickets
        self.tokens = services.tokens
        self.revocations = services.revocations

    async def create_token(self, request: Request) -> Response:
        """POST /v1/tokens: a subscriber token of the key's tenant."""
        principal = principal_of(request.scope)
        require(principal, "tokens:create")
        asked = await read_json(request, TokenRequest)
        now = time.time()
        ends = int(now) + asked.ttl
        claims = Claims(
            sub=asked.sub,
            exp=ends,
            iat=round(now, 3),  # a revocation of the user in the same second must not hit a later token
            jti=new_id("tok_"),
            tenant=principal.tenant,
            info=asked.info,
            channels=asked.channels,
            subs=asked.subs,
            caps=asked.caps,
        )
        body = {"token": self.tokens.mint(claims), "expires_at": rfc3339(ends)}
        return json_response(body, 201, _PRIVATE)

    async def revoke_token(self, request: Request) -> Response:
        """POST /v1/tokens/revoke: a token of the key's tenant by its id, or all a user has until now."""
        principal = principal_of(request.scope)
        require(principal, "tokens:create")
        asked = await read_json(request, RevokeRequest)
        if (asked.jti is None) == (asked.sub is None):
            rule = "is required, or sub" if asked.jti is None else "cannot be given together with sub"
            raise InvalidFields(errors=[FieldError("/jti", rule)])
        kind: Literal["j", "u"] = "u" if asked.jti is None else "j"
        done = await self.revocations.revoke(principal.tenant, kind, asked.jti or asked.sub or "", ttl=asked.ttl)
        log.info("token.revoked", tenant=principal.tenant, by=principal.subject, what="token" if asked.jti else "user")
        return json_response({"revoked_at": rfc3339(done.at), "remembered_until": rfc3339(done.ends)})

    async def create_ticket(self, request: Request) -> Response:
        """POST /v1/tickets: a ticket for the caller itself; the body is not read."""
        ticket, ends = await self.tickets.issue(principal_of(request.scope))
        body = {"ticket": ticket, "expires_at": rfc3339(ends), "url": f"/v1/stream?ticket={ticket}"}
        return json_response(body, 201, _PRIVATE)

    async def list_keys(self, request: Request) -> Response:
        """GET /v1/keys: the tenant's keys, without their secrets."""
        keys = await self.keys.list(_managed_tenant(request))
        return json_response(page_body([_shape(key) for key in keys], None))

    async def create_key(self, request: Request) -> Response:
        """POST /v1/keys: the one answer that shows the key."""
        principal = principal_of(request.scope)
        require(principal, "keys:manage")
        asked = await read_json(request, KeyRequest)
        for scope in asked.scopes:
            if not has_scope(principal, scope):
                raise Forbidden(f"A key may grant only scopes it holds itself; this one does not hold {scope}")
        key, token = await self.keys.create(_tenant(principal, asked.tenant), asked.name, asked.scopes)
        return json_response({**_shape(key), "key": token}, 201, _PRIVATE)

    async def revoke_key(self, request: Request) -> Response:
        """DELETE /v1/keys/{id}."""
        await self.keys.revoke(_managed_tenant(request), request.path_params["id"])
        return Response(status_code=204)


def _managed_tenant(request: Request) -> str:
    principal = principal_of(request.scope)
    require(principal, "keys:manage")
    query = Query(request.query_params)
    asked = query.text("tenant")
    query.check()
    return _tenant(principal, check_tenant(asked) if asked is not None else None)


def _tenant(principal: Principal, asked: str | None) -> str:
    if asked in {None, principal.tenant}:
        return principal.tenant
    if principal.subject != ROOT:
        raise Forbidden("Only the root key manages the keys of another tenant")
    return asked or principal.tenant


def _shape(key: Key) -> dict[str, object]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": key.scopes,
        "created_at": rfc3339(key.created_at),
    }
