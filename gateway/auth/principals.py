"""Who is calling. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from gateway.errors import Unauthenticated

Action = Literal["sub", "pub", "hst", "prs"]
Scope = Literal[
    "jobs:read",
    "jobs:write",
    "events:publish",
    "channels:read",
    "tokens:create",
    "keys:manage",
    "webhooks:read",
    "webhooks:write",
    "*",
]

DEFAULT_TENANT = "default"


class Capability(msgspec.Struct, frozen=True, kw_only=True):
    """What a token grants on some channels.

    Attributes:
        channels: names, or with `match="wildcard"` names in which a trailing `*` stands for anything.
        match: how to read `channels`.
        allow: subscribe, publish, read the history, see who is present.
    """

    channels: tuple[str, ...]
    match: Literal["exact", "wildcard"] = "exact"
    allow: tuple[Action, ...]


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated caller.

    Attributes:
        tenant: whose data it sees.
        subject: the user, `""` when nobody in particular; of a key its id.
        kind: what it came with.
        scopes: what an API key may do.
        caps: what a token may do on channels.
        info: what subscribers are told about it: compact JSON, or empty.
        expires_at: unix seconds, or None: for ever.
        jti: the token's id.
        channels: channels a WebSocket of it is subscribed to by the server.
        subs: options of these, by channel, as JSON.
    """

    tenant: str
    subject: str
    kind: Literal["key", "token", "anonymous"]
    scopes: frozenset[str] = frozenset()
    caps: tuple[Capability, ...] = ()
    info: bytes = b""
    expires_at: float | None = None
    jti: str | None = None
    channels: tuple[str, ...] = ()
    subs: dict[str, bytes] | None = None


ANONYMOUS = Principal(tenant=DEFAULT_TENANT, subject="", kind="anonymous")


def principal_of(scope: Mapping[str, Any]) -> Principal:
    """Return who `Authentication` found behind a request (an ASGI scope).

    Raises:
        Unauthenticated: it came without credentials.
    """
    principal = optional_principal(scope)
    if principal is None:
        raise Unauthenticated("Send an API key or a token: Authorization: Bearer …")
    return principal


def optional_principal(scope: Mapping[str, Any]) -> Principal | None:
    """Return who is behind a request, or None when it came without credentials."""
    principal = scope.get("state", {}).get("principal")
    return principal if isinstance(principal, Principal) else None
