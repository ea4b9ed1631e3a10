"""`GET /v1/stream`: who may open a stream, from where it resumes, and when it is over for good (DESIGN 3.6)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from gateway.auth.principals import ANONYMOUS, Principal, optional_principal
from gateway.auth.tickets import sign_cursor, ticket_hash, verify_cursor
from gateway.errors import Forbidden, GatewayError, RateLimited, TooManyConnections, Unauthenticated
from gateway.events import MAX_CHANNELS, channel_fault, namespace
from gateway.fanout import sse
from gateway.fanout.dependencies import Dependencies
from gateway.fanout.origins import cookie_principal, host_of
from gateway.fanout.responses import StreamResponse, farewell, head_only, place
from gateway.fanout.stream import StreamSpec
from gateway.web.pagination import Query

_MAX_TOKEN = 8192
_MAX_TYPES = 2000
# What a reader is told, and how many times as long as usual it stays away: connections do not end soon.
_REASONS: tuple[tuple[type[GatewayError], tuple[str, int]], ...] = (
    (TooManyConnections, ("overload", 5)),
    (RateLimited, ("rate", 1)),
)


class _Reader(NamedTuple):
    """Who opens a stream, and how its cursors are signed."""

    principal: Principal
    sign: Callable[[str], str] | None = None


class _Asked(NamedTuple):
    """What the URL and the headers say; `resumed` is a cursor as it came, `ticket` and `token` are credentials."""

    channels: tuple[str, ...]
    named: bool
    types: frozenset[str] | None
    ticket: str | None
    token: str | None
    resumed: str | None

    @property
    def shown(self) -> sse.Cursor | None:
        """What may prove a ticket."""
        return sse.parse_cursor(self.resumed) if self.resumed else None

    @property
    def cursor(self) -> sse.Cursor | None:
        """Where the reader stands, if it has seen anything."""
        shown = self.shown
        return None if shown is not None and shown[:2] == sse.FRESH[:2] else shown

    @property
    def fault(self) -> str:
        """Why the stream cannot begin from where the reader stood, or empty."""
        return "cursor" if self.resumed and self.shown is None else ""


class Streams:
    """Opens streams."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps

    async def open(self, request: Request) -> Response:
        """GET /v1/stream. HEAD answers the headers only."""
        asked = _asked(request)
        if request.method == "HEAD":
            return head_only()  # and a ticket is not used up
        sign = None
        try:
            reader = await self._reader(request, asked)
            sign = reader.sign  # from here on a ticket is used up
            await self._deps.spend(reader.principal.tenant)
            await self._allow(reader.principal, asked.channels)
            if await self._over(reader.principal.tenant, asked):
                return Response(status_code=204)
            seat = self._deps.seats.seat(host_of(request), reader.principal.tenant)
        except GatewayError as error:
            if not error.retryable:
                raise
            return self._not_now(error, place(sign, asked.cursor, asked.fault))
        spec = StreamSpec(
            tenant=reader.principal.tenant,
            channels=asked.channels,
            named=asked.named,
            types=asked.types,
            sign=reader.sign,
            expires_at=reader.principal.expires_at,
            credential=reader.principal.credential,
        )
        return StreamResponse(self._deps.hub, spec, asked.cursor, asked.fault, seat)

    def _not_now(self, error: GatewayError, cursor: str) -> Response:
        """Answer what is temporary: EventSource never retries anything but a 200."""
        reason, longer = next((told for kind, told in _REASONS if isinstance(error, kind)), ("unavailable", 1))
        retry = (error.retry_after or 0.0) + longer * random.uniform(*self._deps.hub.options.retry)  # noqa: S311 - jitter
        return farewell(reason, retry, cursor)

    async def _reader(self, request: Request, asked: _Asked) -> _Reader:
        principal = optional_principal(request.scope)
        if principal is not None:
            return _Reader(principal)
        if asked.ticket:
            return await self._with_ticket(asked.ticket, asked.shown)
        if asked.token:
            principal = await self._deps.authenticator.verify(asked.token)
            if principal.kind == "token":
                return _Reader(principal)
            raise Unauthenticated("An API key does not belong into a URL: make a ticket with it")
        principal = await cookie_principal(request, self._deps.settings, self._deps.authenticator)
        if principal is not None:
            return _Reader(principal)
        if self._deps.settings.anonymous:
            return _Reader(ANONYMOUS)
        raise Unauthenticated("Send a token, an API key or a ticket")

    async def _with_ticket(self, ticket: str, cursor: sse.Cursor | None) -> _Reader:
        secret, hashed = self._deps.secret(), ticket_hash(ticket)
        proven = cursor is not None and verify_cursor(secret, hashed, cursor.text, cursor.mac)
        principal = await self._deps.tickets.open(ticket, proven=proven)
        return _Reader(principal, partial(sign_cursor, secret, hashed))

    async def _allow(self, principal: Principal, channels: tuple[str, ...]) -> None:
        for channel in channels:
            if not await self._deps.access.may(principal, "sub", channel):
                raise Forbidden(f"You may not listen to {channel}")

    async def _over(self, tenant: str, asked: _Asked) -> bool:
        """Whether nothing will ever come any more: a reader of jobs that are over comes back, and has everything."""
        cursor, hub = asked.cursor, self._deps.hub
        if cursor is None or any(namespace(channel) != "job" for channel in asked.channels):
            return False
        for channel in asked.channels:
            state = await hub.job_state(tenant, channel.partition(":")[2])
            if state is not None and not sse.is_over(state, time.time()):
                return False
        spec = StreamSpec(tenant=tenant, channels=asked.channels)
        replay = await hub.reads.replay(spec, cursor.generation, cursor.sequence, 1)
        return replay.complete and not replay.publications


def _asked(request: Request) -> _Asked:
    query = Query(request.query_params)
    channels = _channels(query)
    named = query.choice("event", ["type", "message"]) != "message"
    types = query.text("types", maximum=_MAX_TYPES)
    ticket, token = query.text("ticket"), query.text("token", maximum=_MAX_TOKEN)
    resumed = request.headers.get("last-event-id") or query.text("last_event_id") or query.text("lastEventId")
    query.check()
    return _Asked(channels, named, frozenset(types.split(",")) if types else None, ticket, token, resumed)


def _channels(query: Query) -> tuple[str, ...]:
    names = query.texts("channel", count=MAX_CHANNELS)
    if not names:
        query.fault("channel", "must be given at least once")
    for name in names:
        fault = channel_fault(name)
        if fault is not None:
            query.fault("channel", fault)
    return tuple(dict.fromkeys(names))
