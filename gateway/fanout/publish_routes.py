"""Routes: publishing events, and reading a channel's history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.access import Access
from gateway.auth.principals import Principal, principal_of
from gateway.errors import FieldError, Forbidden, InvalidFields, PositionLost
from gateway.events import Position, Publication, channel_fault
from gateway.store.channels import ChannelStore, Outgoing
from gateway.store.produced import NewEvent, outgoing
from gateway.web.bodies import read_body
from gateway.web.context import trace_of
from gateway.web.decoding import decode
from gateway.web.pagination import Query
from gateway.web.responses import json_response

MAX_EVENTS = 1000
MAX_BODY = 16 * 1024 * 1024
MAX_PAGE = 1000
_NO_DATA = msgspec.Raw(b"")


class NewEvents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Several at once."""

    events: Annotated[list[NewEvent], msgspec.Meta(min_length=1, max_length=MAX_EVENTS)]


class _Shape(msgspec.Struct):
    events: msgspec.Raw = _NO_DATA


class Recorded(msgspec.Struct):
    """Where an event went: its id, and its position by channel."""

    id: str
    positions: dict[str, dict[str, str | int]]


def routes(channels: ChannelStore, access: Access) -> list[Route]:
    """Return the routes."""
    handlers = _Handlers(channels, access)
    return [
        Route("/v1/events", handlers.publish, methods=["POST"]),
        Route("/v1/channels/{channel:path}/history", handlers.history, methods=["GET"]),
    ]


class _Handlers:
    def __init__(self, channels: ChannelStore, access: Access) -> None:
        self._channels = channels
        self._access = access

    async def publish(self, request: Request) -> Response:
        """POST /v1/events: one event, or `{"events": […]}`; in order, in one go per hundred."""
        principal = principal_of(request.scope)
        body = await read_body(request, limit=MAX_BODY)
        several = bool(bytes(decode(body, _Shape).events))
        events = decode(body, NewEvents).events if several else [decode(body, NewEvent)]
        await self._allow(principal, events)
        trace = trace_of(request.scope)
        traceparent = trace.traceparent if trace else None
        drafts = [outgoing(event, source="/v1/events", traceparent=traceparent) for event in events]
        positions = await self._channels.publish_many(principal.tenant, drafts)
        recorded = [_recorded(item, found) for item, found in zip(drafts, positions, strict=True)]
        return json_response({"events": recorded} if several else recorded[0], 202)

    async def _allow(self, principal: Principal, events: Sequence[NewEvent]) -> None:
        for channel in dict.fromkeys(channel for event in events for channel in event.channels):
            if not await self._access.may(principal, "pub", channel):
                raise Forbidden(f"You may not publish to {channel}")

    async def history(self, request: Request) -> Response:
        """GET /v1/channels/{channel}/history."""
        principal = principal_of(request.scope)
        channel = request.path_params["channel"]
        query = Query(request.query_params)
        since = query.integer("since", -1, minimum=0, maximum=2**53)
        epoch = query.text("epoch") or ""
        limit = query.integer("limit", 100, minimum=0, maximum=MAX_PAGE)
        query.check()
        fault = channel_fault(channel)
        if fault is not None:
            raise InvalidFields(errors=[FieldError("/channel", fault)])
        if not await self._access.may(principal, "hst", channel):
            raise Forbidden(f"You may not read {channel}")
        asked = Position(epoch, max(since, 0)) if since >= 0 or epoch else None
        found = await self._channels.history(principal.tenant, channel, since=asked, limit=limit)
        if not found.complete:
            raise PositionLost
        shown = [_shown(publication) for publication in found.publications]
        return json_response({"publications": shown, "epoch": found.epoch, "offset": found.offset})


def _shown(publication: Publication) -> dict[str, object]:
    return {"offset": publication.offset, "event": msgspec.Raw(publication.event)}


def _recorded(item: Outgoing, found: Sequence[Position]) -> Recorded:
    positions: dict[str, dict[str, str | int]] = {
        channel: {"epoch": position.epoch, "offset": position.offset}
        for channel, position in zip(item.channels, found, strict=True)
    }
    return Recorded(item.event.id, positions)
