"""The Centrifuge commands about a channel's past, and publishing to it."""

from __future__ import annotations

from typing import Protocol

import msgspec

from gateway.auth.principals import Action, Principal
from gateway.errors import PositionLost
from gateway.events import (
    MAX_EVENT_BYTES,
    Position,
    channel_fault,
    draft,
    new_id,
)
from gateway.fanout import centrifuge, codes
from gateway.fanout.codes import Refusal
from gateway.fanout.hub import Hub
from gateway.fanout.resume import MAX_REPLY_BYTES
from gateway.fanout.session import Session
from gateway.fanout.wire import Entry, fill
from gateway.web.decoding import compact

MAX_HISTORY = 1000  # publications in one history reply, which is at most one frame anyway
MESSAGE = "channel.message"  # the type of what clients publish


class Permissions(Protocol):
    """See `gateway.auth.access.Access`."""

    async def may(self, principal: Principal, action: Action, channel: str) -> bool:
        """Whether the principal may do this on a channel."""


class Refused(Exception):
    """The command is answered with an error."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def known(session: Session) -> Principal:
    """Return who the session is; before `connect` nobody gets here."""
    if session.principal is None:
        raise Refused(codes.UNAUTHORIZED)
    return session.principal


class ChannelCommands:
    """`publish`, `history`, and the check every command on a channel begins with."""

    def __init__(self, hub: Hub, access: Permissions) -> None:
        self._hub = hub
        self._access = access

    async def check(self, session: Session, action: Action, channel: str) -> None:
        """Refuse what is not a channel (107) or not allowed (103)."""
        if channel_fault(channel) is not None:
            raise Refused(codes.BAD_REQUEST)
        if not await self._access.may(known(session), action, channel):
            raise Refused(codes.PERMISSION_DENIED)

    async def publish(self, session: Session, command: centrifuge.Command) -> None:
        """Record what a client says as a `channel.message`; subscribers get its data verbatim, with `info`."""
        request = command.publish or centrifuge.PublishRequest()
        principal = known(session)
        await self.check(session, "pub", request.channel)
        raw = bytes(request.data)
        if not raw:
            raise Refused(codes.BAD_REQUEST)
        data = compact(raw)
        if len(data) > MAX_EVENT_BYTES:
            raise Refused(codes.LIMIT_EXCEEDED)
        event = draft(MESSAGE, data, id_=new_id("msg_"), source=f"/clients/{session.client}")
        info = centrifuge.client_info(principal.subject, session.client, principal.info)
        await self._hub.channels.publish(principal.tenant, [request.channel], event, info=info)

    async def history(self, session: Session, command: centrifuge.Command) -> centrifuge.HistoryResult:
        """Answer from the store: at most one frame; the client reads on with `since`."""
        request = command.history or centrifuge.HistoryRequest()
        await self.check(session, "hst", request.channel)
        since = Position(request.since.epoch, request.since.offset) if request.since else None
        limit = MAX_HISTORY if request.limit < 0 else min(request.limit, MAX_HISTORY)
        found = await self._hub.channels.history(
            session.tenant, request.channel, since=since, limit=limit, reverse=request.reverse
        )
        if not found.complete:
            raise PositionLost
        part = fill([Entry(publication) for publication in found.publications], MAX_REPLY_BYTES)
        return centrifuge.HistoryResult(
            publications=[msgspec.Raw(entry.pub) for entry in part], epoch=found.epoch, offset=found.offset
        )
