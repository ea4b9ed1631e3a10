"""Route: who is on a channel."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.access import Access
from gateway.auth.principals import principal_of
from gateway.errors import FieldError, Forbidden, InvalidFields, NotFound
from gateway.events import channel_fault, namespace
from gateway.fanout.hub import Hub
from gateway.settings import Settings
from gateway.web.pagination import Query
from gateway.web.responses import json_response

MAX_BYTES = 4 * 1024 * 1024  # of members' infos in one answer


def routes(hub: Hub, settings: Settings, access: Access) -> list[Route]:
    """Return the route."""

    async def presence(request: Request) -> Response:
        """GET /v1/channels/{channel}/presence?limit=: both numbers, and as many members as the limit allows."""
        principal = principal_of(request.scope)
        channel = request.path_params["channel"]
        query = Query(request.query_params)
        limit = query.integer("limit", hub.options.members, minimum=0, maximum=hub.options.members)
        query.check()
        fault = channel_fault(channel)
        if fault is not None:
            raise InvalidFields(errors=[FieldError("/channel", fault)])
        if not await access.may(principal, "prs", channel):
            raise Forbidden(f"You may not see who is on {channel}")
        if not settings.rules(namespace(channel)).presence:
            raise NotFound(f"Nobody keeps who is on {channel}: its namespace has no presence")
        present = await hub.presence.read(principal.tenant, channel, limit=limit, size=MAX_BYTES)
        members = {client: msgspec.Raw(info) for client, info in present.members.items()}
        return json_response({"presence": members, "num_clients": present.clients, "num_users": present.users})

    return [Route("/v1/channels/{channel:path}/presence", presence, methods=["GET"])]
