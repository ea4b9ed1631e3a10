"""The Centrifuge commands about a channel: publishing to it, its past, who is there."""

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
    namespace,
    new_id,
)
from gateway.fanout import centrifuge, codes, replies
from gateway.fanout.codes import Refusal
from gateway.fanout.hub import Hub
from gateway.fanout.resume import MAX_REPLY_BYTES
from gateway.fanout.schemas import MESSAGE
from gateway.fanout.session import Session
from gateway.fanout.wire import MAX_BATCH, Entry, fill
from gateway.settings import Settings
from gateway.store.presence import Present
from gateway.web.decoding import compact

MAX_HISTORY = 1000  # publications in one history reply, which is at most one frame anyway


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
    """`publish`, `history`, `presence`, and the check every command on a channel begins with."""

    def __init__(self, hub: Hub, settings: Settings, access: Permissions) -> None:
        self._hub = hub
        self._settings = settings
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
        event = draft(
            MESSAGE.name, data, id_=new_id("msg_"), source=f"/clients/{session.client}", dataschema=MESSAGE.uri
        )
        info = replies.client_info(principal.subject, session.client, principal.info)
        await self._hub.channels.publish(principal.tenant, [request.channel], event, info=info)

    async def history(self, session: Session, command: centrifuge.Command) -> replies.HistoryResult:
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
        return replies.HistoryResult(
            publications=[msgspec.Raw(entry.pub) for entry in part], epoch=found.epoch, offset=found.offset
        )

    async def presence(self, session: Session, command: centrifuge.Command) -> replies.PresenceResult:
        """Tell who is on a channel; of a crowd, as many as fit."""
        present = await self._present(session, command.presence, self._hub.options.members)
        return replies.PresenceResult({client: msgspec.Raw(info) for client, info in present.members.items()})

    async def presence_stats(self, session: Session, command: centrifuge.Command) -> replies.PresenceStatsResult:
        """Tell how many are on a channel: all of them."""
        present = await self._present(session, command.presence_stats, 0)
        return replies.PresenceStatsResult(present.clients, present.users)

    async def _present(self, session: Session, request: centrifuge.ChannelRequest | None, limit: int) -> Present:
        channel = request.channel if request else ""
        await self.check(session, "prs", channel)
        if not self._settings.rules(namespace(channel)).presence:
            raise Refused(codes.NOT_AVAILABLE)
        return await self._hub.presence.read(session.tenant, channel, limit=limit, size=MAX_BATCH)
