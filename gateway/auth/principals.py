"""Who is calling. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

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
    "admin",
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


class Credential(NamedTuple):
    """What a live connection keeps of its principal: enough to tell whether a revocation concerns it.

    Attributes:
        kind: what it came with.
        tenant: whose.
        subject: the user; of a key its id.
        jti: the token's id.
        issued_at: when the token was made, unix seconds; None when it does not say.
    """

    kind: Literal["key", "token", "anonymous"]
    tenant: str
    subject: str
    jti: str | None = None
    issued_at: float | None = None


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
        issued_at: when the token was made, unix seconds, if it says so.
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
    issued_at: float | None = None
    channels: tuple[str, ...] = ()
    subs: dict[str, bytes] | None = None

    @property
    def credential(self) -> Credential:
        """Who this is, without what it may do."""
        return Credential(self.kind, self.tenant, self.subject, self.jti, self.issued_at)


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
