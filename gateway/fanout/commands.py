"""What the Centrifuge commands do. One handler per command; permission first, then the store, then the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from gateway.auth.principals import ANONYMOUS, Principal
from gateway.auth.tokens import SubscriptionGrant
from gateway.errors import Forbidden, GatewayError, TokenExpired, Unauthenticated
from gateway.events import Position, channel_fault, namespace
from gateway.fanout import centrifuge, codes, resume
from gateway.fanout.channel_commands import ChannelCommands, Permissions, Refused, known
from gateway.fanout.codes import Refusal
from gateway.fanout.connection import Subscription
from gateway.fanout.hub import Hub
from gateway.fanout.missed import missed
from gateway.fanout.session import Session
from gateway.settings import Settings

VERSION = "gateway"
_TOGETHER = 64  # subscribes of one connection that run at the same time


class Verifier(Protocol):
    """See `gateway.auth.authenticator.Authenticator`."""

    async def verify(self, credential: str) -> Principal:
        """Read a connection token or an API key; raises `TokenExpired`, `Unauthenticated`."""

    async def verify_subscription(self, token: str) -> SubscriptionGrant:
        """Read a subscription token; raises the same."""


class Commands:
    """The handlers, and what they need."""

    def __init__(self, hub: Hub, settings: Settings, verifier: Verifier, access: Permissions) -> None:
        self._hub = hub
        self._settings = settings
        self._verifier = verifier
        channel = ChannelCommands(hub, access)
        self._check = channel.check
        self._handlers: dict[str, Callable[[Session, centrifuge.Command], Awaitable[object]]] = {
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "publish": channel.publish,
            "history": channel.history,
            "ping": self._nothing,
            "refresh": self._refresh,
            "sub_refresh": self._sub_refresh,
        }

    async def run(self, session: Session) -> None:
        """Handle a session's backlog in order; subscribes of different channels run together."""
        while session.next_commands():
            together = self._take(session)
            if len(together) == 1:
                await self._one(session, together[0])
                continue
            async with asyncio.TaskGroup() as group:
                for command in together:
                    group.create_task(self._one(session, command))

    def _take(self, session: Session) -> list[centrifuge.Command]:
        backlog = session.backlog
        together = [backlog.popleft()]
        channels = {together[0].subscribe.channel} if session.connected and together[0].subscribe else set()
        while channels and backlog and len(together) < _TOGETHER:
            request = backlog[0].subscribe
            if request is None or request.channel in channels:
                break
            channels.add(request.channel)
            together.append(backlog.popleft())
        return together

    async def _one(self, session: Session, command: centrifuge.Command) -> None:
        method = command.method
        if method == "connect" or not session.connected:
            await self._first(session, command)
        elif method == "send":
            return
        elif not command.id:
            session.close(codes.BAD_PROTOCOL)
        else:
            session.reply(await self._answer(session, command, self._handlers.get(method, self._unavailable)))

    async def _answer(
        self,
        session: Session,
        command: centrifuge.Command,
        handler: Callable[[Session, centrifuge.Command], Awaitable[object]],
    ) -> bytes:
        try:
            result = await handler(session, command)
        except Refused as refused:
            return centrifuge.refuse(command.id, refused.refusal)
        except GatewayError as error:
            return centrifuge.refuse(command.id, codes.refusal_of(error))
        return centrifuge.reply(command.id, command.method, result)

    # Connecting.

    async def _first(self, session: Session, command: centrifuge.Command) -> None:
        """Only `connect`, once, with an id; anything else closes."""
        if command.connect is None or session.connected or not command.id:
            session.close(codes.BAD_PROTOCOL)
            return
        try:
            principal = await self._identify(session, command.connect)
        except TokenExpired:
            refusal: Refusal | None = codes.TOKEN_EXPIRED
        except Unauthenticated:
            session.close(codes.INVALID_TOKEN)
            return
        except Refused as refused:
            refusal = refused.refusal
        except GatewayError as error:
            refusal = codes.refusal_of(error)
        else:
            refusal = None
            session.reply(await self._answer(session, command, lambda *_: self._connect(session, principal, command)))
        if refusal is not None:
            session.reply(centrifuge.refuse(command.id, refusal))
        if not session.connected:
            session.drop_subscriptions()
            session.backlog.clear()  # the rest of the message counted on being connected

    async def _identify(self, session: Session, request: centrifuge.ConnectRequest) -> Principal:
        if request.token:
            return await self._verifier.verify(request.token)
        if session.principal is not None:
            return session.principal
        if self._settings.anonymous:
            return ANONYMOUS
        raise Refused(codes.UNAUTHORIZED)

    async def _connect(
        self, session: Session, principal: Principal, command: centrifuge.Command
    ) -> centrifuge.ConnectResult:
        request = command.connect or centrifuge.ConnectRequest()
        ttl = session.adopt(principal)
        subs: dict[str, centrifuge.SubscribeResult] = {}
        room = resume.MAX_REPLY_BYTES  # for the publications of all of them: the reply is one message
        for channel in principal.channels[: self._hub.options.subscriptions]:
            asked = request.subs.get(channel, centrifuge.SubscribeRequest())
            asked.channel = channel
            subs[channel] = joined = await self._join(session, asked, room=room)
            room -= sum(len(bytes(publication)) for publication in joined.publications)
        session.connected = True
        return centrifuge.ConnectResult(
            client=session.client,
            version=VERSION,
            expires=ttl > 0,
            ttl=ttl,
            subs=subs,
            ping=round(self._hub.options.ping),
            pong=True,
        )

    async def _refresh(self, session: Session, command: centrifuge.Command) -> object:
        request = command.refresh or centrifuge.TokenRequest()
        before = known(session)
        try:
            principal = await self._verifier.verify(request.token)
        except TokenExpired:
            raise
        except Unauthenticated:
            session.close(codes.INVALID_TOKEN)
            raise
        if (principal.tenant, principal.subject) != (before.tenant, before.subject):
            session.close(codes.INVALID_TOKEN)
            raise Refused(codes.UNAUTHORIZED)
        ttl = session.adopt(principal)
        return centrifuge.ConnectResult(client=session.client, version=VERSION, expires=ttl > 0, ttl=ttl)

    # Subscribing.

    async def _subscribe(self, session: Session, command: centrifuge.Command) -> object:
        request = command.subscribe or centrifuge.SubscribeRequest()
        channel = request.channel
        if channel_fault(channel) is not None:
            raise Refused(codes.BAD_REQUEST)
        if channel in session.subscriptions:
            raise Refused(codes.ALREADY_SUBSCRIBED)
        if len(session.subscriptions) >= self._hub.options.subscriptions:
            raise Refused(codes.LIMIT_EXCEEDED)
        if bytes(request.tf) not in (b"", b"null"):
            raise Refused(codes.NOT_AVAILABLE)
        expires_at = await self._grant(session, channel, request.token)
        return await self._join(session, request, expires_at=expires_at)

    async def _grant(self, session: Session, channel: str, token: str) -> float | None:
        """Check the right to subscribe; returns when it ends."""
        if token:
            return await self._token_grant(session, channel, token)
        await self._check(session, "sub", channel)
        return None

    async def _token_grant(self, session: Session, channel: str, token: str) -> float | None:
        try:
            grant = await self._verifier.verify_subscription(token)
        except TokenExpired:
            raise
        except Unauthenticated:
            raise Forbidden from None
        principal = known(session)
        if (grant.tenant, grant.subject, grant.channel) != (principal.tenant, principal.subject, channel):
            raise Forbidden
        return grant.expires_at

    async def _join(
        self,
        session: Session,
        request: centrifuge.SubscribeRequest,
        *,
        expires_at: float | None = None,
        room: int | None = None,
    ) -> centrifuge.SubscribeResult:
        """Join a topic; `room` bytes of publications for a server-side subscription."""
        asked = Position(request.epoch, request.offset) if request.recover else None
        async with self._hub.attached(session.tenant, [request.channel]) as (topic,):
            found = await missed(self._hub, topic, asked, resume.MAX_REPLY_BYTES if room is None else room)
            if session.closing:
                raise Refused(codes.INTERNAL)
            if asked is not None and not found.recovered and request.flag & centrifuge.REJECT_UNRECOVERED:
                raise Refused(codes.UNRECOVERABLE)
            if len(session.subscriptions) >= self._hub.options.subscriptions:
                raise Refused(codes.LIMIT_EXCEEDED)  # others of the same message were quicker
            subscription = Subscription(session, topic, found.position.offset)
        subscription.recovering, subscription.server_side = found.recovered, room is not None
        ttl = 0
        if expires_at is not None:
            ttl = max(1, round(expires_at - time.time()))
            subscription.expires = self._hub.loop.time() + ttl
        session.admit(subscription)
        return self._joined(request, found, ttl)

    def _joined(
        self, request: centrifuge.SubscribeRequest, found: resume.Reply, ttl: int
    ) -> centrifuge.SubscribeResult:
        rules = self._settings.rules(namespace(request.channel))
        recoverable = rules.history_size > 0 and (rules.recover or request.recoverable or request.recover)
        positioned = recoverable or request.positioned
        return centrifuge.SubscribeResult(
            recoverable=recoverable,
            positioned=positioned,
            epoch=found.position.epoch if positioned else "",
            offset=found.position.offset if positioned else 0,
            publications=[msgspec.Raw(entry.pub) for entry in found.entries],
            recovered=found.recovered,
            was_recovering=request.recover,
            expires=ttl > 0,
            ttl=ttl,
        )

    async def _unsubscribe(self, session: Session, command: centrifuge.Command) -> None:
        request = command.unsubscribe or centrifuge.ChannelRequest()
        subscription = session.subscriptions.get(request.channel)
        if subscription is not None:
            session.end(subscription, None)

    async def _sub_refresh(self, session: Session, command: centrifuge.Command) -> object:
        request = command.sub_refresh or centrifuge.TokenRequest()
        grant = await self._verifier.verify_subscription(request.token)
        channel = request.channel or grant.channel  # the Python client leaves it out
        subscription = session.subscriptions.get(channel)
        if subscription is None:
            raise Refused(codes.BAD_REQUEST)
        expires_at = await self._token_grant(session, channel, request.token)
        subscription.expires, ttl = None, 0
        if expires_at is not None:
            ttl = max(1, round(expires_at - time.time()))
            subscription.expires = self._hub.loop.time() + ttl
        return centrifuge.SubRefreshResult(expires=ttl > 0, ttl=ttl)

    async def _nothing(self, _session: Session, _command: centrifuge.Command) -> None:
        """`ping`: the answer is all there is to it."""

    async def _unavailable(self, _session: Session, command: centrifuge.Command) -> None:
        """`presence`, `presence_stats`, `rpc`, and what we never heard of."""
        raise Refused(codes.NOT_AVAILABLE if command.method else codes.METHOD_NOT_FOUND)
