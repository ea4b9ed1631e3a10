"""Subscriptions of a session: asked for by the client, or granted by its token."""

from __future__ import annotations

import time
from math import inf
from typing import NamedTuple, Protocol

import msgspec

from gateway.auth.principals import Principal
from gateway.auth.tokens import SubscriptionGrant
from gateway.errors import Forbidden, TokenExpired, TokenRevoked, Unauthenticated
from gateway.events import Position, channel_fault, namespace
from gateway.fanout import centrifuge, codes, granted, replies, resume
from gateway.fanout.channel_commands import Permissions, Refused, known
from gateway.fanout.connection import Subscription
from gateway.fanout.hub import Hub
from gateway.fanout.missed import missed
from gateway.fanout.presence import Member, Visible
from gateway.fanout.session import Session
from gateway.fanout.topic import Topic
from gateway.settings import Settings


class Verifier(Protocol):
    """See `gateway.auth.authenticator.Authenticator`."""

    async def verify(self, credential: str) -> Principal:
        """Read a connection token or an API key; raises `TokenExpired`, `Unauthenticated`."""

    async def verify_subscription(self, token: str) -> SubscriptionGrant:
        """Read a subscription token; raises the same."""


class Terms(NamedTuple):
    """What a subscription rests on.

    Attributes:
        grant: the subscription token it was allowed with.
        options: of a server-side subscription.
        room: bytes of publications its reply may hold.
    """

    grant: SubscriptionGrant | None = None
    options: granted.Options | None = None
    room: int = resume.MAX_REPLY_BYTES


class Subscribing:
    """`subscribe`, `unsubscribe`, `sub_refresh`, and joining on a token's behalf."""

    def __init__(self, hub: Hub, settings: Settings, verifier: Verifier, access: Permissions) -> None:
        self._hub = hub
        self._settings = settings
        self._verifier = verifier
        self._access = access

    async def subscribe(self, session: Session, command: centrifuge.Command) -> object:
        """Join a channel: what was missed in the reply, what follows as pushes."""
        request = command.subscribe or centrifuge.SubscribeRequest()
        channel = request.channel
        if channel_fault(channel) is not None:
            raise Refused(codes.BAD_REQUEST)
        if channel in session.subscriptions:
            raise Refused(codes.ALREADY_SUBSCRIBED)
        self._check_room(session)
        if bytes(request.tf) not in (b"", b"null"):
            raise Refused(codes.NOT_AVAILABLE)
        if request.token:
            return await self.join(session, request, Terms(await self._grant(session, channel, request.token)))
        if not await self._access.may(known(session), "sub", channel):
            raise Refused(codes.PERMISSION_DENIED)
        return await self.join(session, request, Terms())

    async def unsubscribe(self, session: Session, command: centrifuge.Command) -> None:
        """Leave a channel; who is not on it has left it, too."""
        request = command.unsubscribe or centrifuge.ChannelRequest()
        subscription = session.subscriptions.get(request.channel)
        if subscription is not None:
            session.end(subscription, None)

    async def sub_refresh(self, session: Session, command: centrifuge.Command) -> object:
        """Put a newer token under a subscription."""
        request = command.sub_refresh or centrifuge.TokenRequest()
        grant = await self._grant(session, request.channel, request.token)  # the Python client names no channel
        subscription = session.subscriptions.get(grant.channel)
        if subscription is None:
            raise Refused(codes.PERMISSION_DENIED)
        ttl = self._hold(subscription, grant)
        return replies.SubRefreshResult(expires=ttl > 0, ttl=ttl)

    async def _grant(self, session: Session, channel: str, token: str) -> SubscriptionGrant:
        """Read a subscription token, which must be this user's and, where one is named, this channel's."""
        try:
            grant = await self._verifier.verify_subscription(token)
        except TokenExpired:
            raise
        except Unauthenticated:
            raise Forbidden from None
        principal = known(session)
        if (grant.tenant, grant.subject) != (principal.tenant, principal.subject):
            raise Forbidden
        if channel not in ("", grant.channel):
            raise Forbidden
        return grant

    def _check_room(self, session: Session) -> None:
        if len(session.subscriptions) >= self._hub.options.subscriptions:
            raise Refused(codes.LIMIT_EXCEEDED)

    async def join(
        self, session: Session, request: centrifuge.SubscribeRequest, terms: Terms
    ) -> replies.SubscribeResult:
        """Join a topic."""
        visible = await self._visible(session, request, terms)
        asked = Position(request.epoch, request.offset) if request.recover else None
        with self._hub.attached(session.tenant, [request.channel]) as (topic,):
            found = await missed(self._hub, topic, asked, terms.room)
            # From here on nothing waits: others may have joined and left meanwhile.
            if session.closing:
                raise Refused(codes.INTERNAL)
            self._check_room(session)
            if terms.grant is not None and (terms.grant.expires_at or inf) <= time.time():
                raise TokenExpired
            if terms.grant is not None and self._hub.revoked(terms.grant.credential):
                raise TokenRevoked
            if asked is not None and not found.recovered and request.flag & centrifuge.REJECT_UNRECOVERED:
                raise Refused(codes.UNRECOVERABLE)
            subscription = self._subscription(session, topic, found.position.offset, visible)
        subscription.recovering, subscription.server_side = found.recovered, terms.options is not None
        session.admit(subscription)
        ttl = self._hold(subscription, terms.grant) if terms.grant is not None else 0
        return self._joined(request, found, ttl, terms.options or granted.NONE)

    def _subscription(self, session: Session, topic: Topic, offset: int, visible: Visible | None) -> Subscription:
        if visible is None:
            return Subscription(session, topic, offset)
        member = Member(session, topic, offset, visible)
        self._hub.presence.joined(member)
        return member

    def _hold(self, subscription: Subscription, grant: SubscriptionGrant) -> int:
        """Tie a subscription to its token; returns the seconds that is good for, 0 for ever."""
        subscription.grant, subscription.expires = grant.credential, None
        if grant.expires_at is None:
            return 0
        ttl = max(1, round(grant.expires_at - time.time()))
        subscription.expires = self._hub.loop.time() + ttl
        return ttl

    async def _visible(self, session: Session, request: centrifuge.SubscribeRequest, terms: Terms) -> Visible | None:
        """Say how others see the subscription; None when the namespace knows neither presence nor joins."""
        rules = self._settings.rules(namespace(request.channel))
        if not (rules.presence or rules.join_leave):
            return None
        principal, options = known(session), terms.options or granted.NONE
        shown = options.presence is not False
        listens = rules.join_leave if options.join_leave is None else options.join_leave
        if request.join_leave and not listens:  # without the permission it is as if it had not been asked
            listens = await self._access.may(principal, "prs", request.channel)
        if not shown and not listens:
            return None
        of_channel = options.info or (terms.grant.info if terms.grant else b"")
        info = replies.client_info(principal.subject, session.client, principal.info, of_channel)
        return Visible(principal.subject, session.client, info, rules.presence and shown, shown, listens)

    def _joined(
        self, request: centrifuge.SubscribeRequest, found: resume.Reply, ttl: int, options: granted.Options
    ) -> replies.SubscribeResult:
        rules = self._settings.rules(namespace(request.channel))
        wanted = rules.recover or request.recoverable or request.recover or options.recover is True
        recoverable = rules.history_size > 0 and wanted
        positioned = recoverable or request.positioned or options.position is True
        return replies.SubscribeResult(
            recoverable=recoverable,
            positioned=positioned,
            epoch=found.position.epoch if positioned else "",
            offset=found.position.offset if positioned else 0,
            publications=[msgspec.Raw(entry.pub) for entry in found.entries],
            recovered=found.recovered,
            was_recovering=request.recover,
            expires=ttl > 0,
            ttl=ttl,
            data=msgspec.Raw(options.data) if options.data else centrifuge.NOTHING,
        )
