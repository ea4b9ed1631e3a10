"""`connect` and `refresh`: who a session is, and what its token subscribes it to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NoReturn

from gateway.auth.principals import ANONYMOUS, Principal
from gateway.errors import TokenExpired, Unauthenticated
from gateway.fanout import centrifuge, codes, granted, replies, resume
from gateway.fanout.channel_commands import Refused, known
from gateway.fanout.hub import Hub
from gateway.fanout.session import Session
from gateway.fanout.subscribing import Subscribing, Terms, Verifier
from gateway.settings import Settings

VERSION = "gateway"


class Closed(Exception):
    """The session has been closed; there is nothing to answer."""


class Connecting:
    """The two commands that take a token of a connection."""

    def __init__(self, hub: Hub, settings: Settings, verifier: Verifier, subscribing: Subscribing) -> None:
        self._hub = hub
        self._settings = settings
        self._verifier = verifier
        self._subscribing = subscribing

    async def connect(self, session: Session, command: centrifuge.Command) -> replies.ConnectResult:
        """Take the client in and join its server-side subscriptions.

        Raises:
            Closed: the token is not one, or asks for too much, or the request's cookie has expired.
        """
        request = command.connect or centrifuge.ConnectRequest()
        principal = await self._identify(session, request)
        channels = principal.channels
        self._check_number(session, channels)
        if session.seat is not None:
            session.seat.join(principal.tenant)
        ttl = session.adopt(principal, renewable=bool(request.token))
        subs: dict[str, replies.SubscribeResult] = {}
        room = resume.MAX_REPLY_BYTES  # for the publications of all of them: the reply is one message
        for channel in channels:
            asked = request.subs.get(channel, centrifuge.SubscribeRequest())
            asked.channel = channel
            subs[channel] = joined = await self._join(session, principal, asked, room)
            room -= sum(len(bytes(publication)) for publication in joined.publications)
        session.connected = True
        return self._result(session, ttl, subs)

    async def refresh(self, session: Session, command: centrifuge.Command) -> replies.ConnectResult:
        """Put a newer token of the same user under the connection; its server-side subscriptions follow it.

        Raises:
            Closed: the token is not one, or somebody else's, or asks for too much.
        """
        request = command.refresh or centrifuge.TokenRequest()
        before = known(session)
        principal = await self._verify(session, request.token)
        if (principal.tenant, principal.subject) != (before.tenant, before.subject):
            _close(session, codes.INVALID_TOKEN)
        ttl = session.adopt(principal)
        await self._follow(session, principal)
        return replies.ConnectResult(client=session.client, version=VERSION, expires=ttl > 0, ttl=ttl)

    async def _identify(self, session: Session, request: centrifuge.ConnectRequest) -> Principal:
        if request.token:
            return await self._verify(session, request.token)
        if session.principal is not None:
            if session.principal.expires_at is not None and session.principal.expires_at <= time.time():
                _close(session, codes.CONNECTION_EXPIRED)  # an error would be final for clients without a `getToken`
            return session.principal
        if self._settings.anonymous:
            return ANONYMOUS
        raise Refused(codes.UNAUTHORIZED)

    async def _verify(self, session: Session, token: str) -> Principal:
        try:
            return await self._verifier.verify(token)
        except TokenExpired:
            raise
        except Unauthenticated:
            _close(session, codes.INVALID_TOKEN)

    def _check_number(self, session: Session, channels: Sequence[str]) -> None:
        if len(channels) > self._hub.options.subscriptions:
            _close(session, codes.CHANNEL_LIMIT)

    async def _join(
        self, session: Session, principal: Principal, asked: centrifuge.SubscribeRequest, room: int
    ) -> replies.SubscribeResult:
        claim = (principal.subs or {}).get(asked.channel, b"")
        options = granted.options(claim) if claim else granted.NONE
        return await self._subscribing.join(session, asked, Terms(options=options, room=room))

    async def _follow(self, session: Session, principal: Principal) -> None:
        """End the server-side subscriptions a newer token does not have, and begin those that are new in it."""
        for channel, subscription in list(session.subscriptions.items()):
            if subscription.server_side and channel not in principal.channels:
                session.end(subscription, codes.SERVER_UNSUBSCRIBED)
        missing = [channel for channel in principal.channels if channel not in session.subscriptions]
        self._check_number(session, [*session.subscriptions, *missing])
        for channel in missing:
            request = centrifuge.SubscribeRequest(channel=channel)
            joined = await self._join(session, principal, request, resume.MAX_REPLY_BYTES)
            session.reply(replies.subscribe_push(channel, joined))

    def _result(self, session: Session, ttl: int, subs: dict[str, replies.SubscribeResult]) -> replies.ConnectResult:
        return replies.ConnectResult(
            client=session.client,
            version=VERSION,
            expires=ttl > 0,
            ttl=ttl,
            subs=subs,
            ping=round(self._hub.options.ping),
            pong=session.pongs,
            session=session.secret,
            node=self._hub.node if session.secret else "",
        )


def _close(session: Session, told: codes.Disconnect) -> NoReturn:
    session.close(told)
    raise Closed
