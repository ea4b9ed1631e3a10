"""Tickets: how an `EventSource`, which cannot send headers, says who it is without a token in its URL.

A ticket opens a stream once, within `OPENS_WITHIN` seconds. Later openings are reconnects, which show a cursor
that was issued to this ticket: the cursor carries a MAC over ticket and position. So a ticket found in a
proxy's log opens nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from gateway.auth.keys import KeyStore
from gateway.auth.principals import Credential, Principal
from gateway.errors import Forbidden, TokenExpired, TokenRevoked, Unauthenticated
from gateway.store.redis import Script, Store

TAG = "{tickets}:"
OPENS_WITHIN = 60.0
LONGEST = 86_400.0
MAX_TICKET = 128
_RANDOM = 24
_MAC_BYTES = 12  # 96 bits: RFC 2104 section 5 wants at least 80

_ISSUE = Script.load("gateway.auth", "lua/issue_ticket.lua")
_OPEN = Script.load("gateway.auth", "lua/open_ticket.lua")

_REFUSALS = {
    b"unknown": "The ticket is unknown or has ended",
    b"late": f"The ticket was not used within {OPENS_WITHIN:.0f} seconds",
    b"used": "The ticket has been used; a reconnect sends the id it was given last",
}


class Ticket(NamedTuple):
    """A new ticket; it ends at `expires_at` (unix seconds)."""

    ticket: str
    expires_at: float


class Tickets:
    """Issues and opens tickets. `revoked` as for the `Authenticator`; `clock` is unix seconds."""

    def __init__(
        self,
        store: Store,
        keys: KeyStore,
        *,
        revoked: Callable[[Credential], Awaitable[bool]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._keys = keys
        self._revoked = revoked
        self._clock = clock

    async def issue(self, principal: Principal) -> Ticket:
        """Make a ticket that is good as long as its principal, at most a day.

        Raises:
            Forbidden: there is nobody to make it for.
            TokenExpired: the principal has expired meanwhile.
            StoreUnavailable: Redis is away.
        """
        if principal.kind == "anonymous":
            raise Forbidden("A ticket needs credentials")
        now = self._clock()
        ends = now + LONGEST
        if principal.expires_at is not None:
            ends = min(ends, principal.expires_at)
        if ends <= now:
            raise TokenExpired
        ticket = secrets.token_urlsafe(_RANDOM)
        ttl = max(1, int((ends - now) * 1000))
        text = msgspec.json.encode(principal).decode()
        await self._store.run(_ISSUE, TAG, ticket=ticket_hash(ticket), principal=text, ttl=ttl)
        return Ticket(ticket, ends)

    async def open(self, ticket: str, *, proven: bool) -> Principal:
        """Open a stream with a ticket.

        Args:
            ticket: as the caller sent it.
            proven: the caller showed a cursor whose MAC `verify_cursor` accepted for this ticket.

        Raises:
            Unauthenticated: unknown, too late, used without proof, or its API key has been revoked.
            TokenExpired: its principal has expired; TokenRevoked when somebody ended it.
            StoreUnavailable: Redis is away.
        """
        if not 0 < len(ticket) <= MAX_TICKET:
            raise Unauthenticated(_REFUSALS[b"unknown"])
        within = int(OPENS_WITHIN * 1000)
        verdict, *rest = await self._store.run(_OPEN, TAG, ticket=ticket_hash(ticket), proven=proven, within=within)
        if verdict != b"ok":
            raise Unauthenticated(_REFUSALS[verdict])
        principal = msgspec.json.decode(rest[0], type=Principal)
        if principal.expires_at is not None and principal.expires_at <= self._clock():
            raise TokenExpired
        if principal.kind == "key" and not await self._keys.is_live(principal):
            raise Unauthenticated("The API key behind this ticket has been revoked")
        if principal.kind == "token" and self._revoked is not None and await self._revoked(principal.credential):
            raise TokenRevoked
        return principal


def ticket_hash(ticket: str) -> str:
    """Return the name a ticket is stored and its cursors are signed under."""
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).hexdigest()


def sign_cursor(secret: bytes, hashed: str, cursor: str) -> str:
    """Return the MAC (16 url-safe characters, 96 bits) that ties a cursor to the ticket it was issued to.

    Args:
        secret: `server_secret`.
        hashed: `ticket_hash` of the ticket.
        cursor: the cursor's text.
    """
    # The prefix keeps these MACs apart from the signatures of tokens, which use the same secret.
    message = b"\0".join((b"gateway cursor", hashed.encode(), cursor.encode("utf-8", "surrogatepass")))
    digest = hmac.new(secret, message, hashlib.sha256).digest()[:_MAC_BYTES]
    return base64.urlsafe_b64encode(digest).decode()


def verify_cursor(secret: bytes, hashed: str, cursor: str, mac: str) -> bool:
    """Whether `mac` is `sign_cursor`'s for this ticket and cursor; in constant time."""
    return hmac.compare_digest(sign_cursor(secret, hashed, cursor).encode(), mac.encode("utf-8", "surrogatepass"))
