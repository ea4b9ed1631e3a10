"""Runs the Centrifuge commands of sessions: in order, within limits, each to its one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic

from gateway.errors import GatewayError
from gateway.fanout import centrifuge, codes, replies
from gateway.fanout.channel_commands import ChannelCommands, Permissions, Refused
from gateway.fanout.codes import Refusal
from gateway.fanout.connecting import Closed, Connecting
from gateway.fanout.hub import Hub
from gateway.fanout.limits import Verdict
from gateway.fanout.rpc import Call, RpcCommands
from gateway.fanout.session import Session
from gateway.fanout.subscribing import Subscribing, Verifier
from gateway.settings import Settings

Handler = Callable[[Session, centrifuge.Command], Awaitable[object]]

_TOGETHER = 64  # subscribes of one connection that run at the same time
_TURN = 0.005  # seconds a session's commands may take before everyone else has a turn
_NOTHING: Mapping[str, Call] = {}


class Commands:
    """The handlers, and what they need."""

    def __init__(
        self,
        hub: Hub,
        settings: Settings,
        verifier: Verifier,
        access: Permissions,
        calls: Mapping[str, Call] = _NOTHING,
        spend: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """`spend` pays for a tenant's request, as one over HTTP would; raises RateLimited."""
        self._hub = hub
        self._spend = spend
        subscribing = Subscribing(hub, settings, verifier, access)
        connecting = Connecting(hub, settings, verifier, subscribing)
        channel = ChannelCommands(hub, settings, access)
        self._connect = connecting.connect
        self._handlers: dict[str, Handler] = {
            "subscribe": subscribing.subscribe,
            "unsubscribe": subscribing.unsubscribe,
            "sub_refresh": subscribing.sub_refresh,
            "refresh": connecting.refresh,
            "publish": self._paid(channel.publish),
            "history": channel.history,
            "presence": channel.presence,
            "presence_stats": channel.presence_stats,
            "rpc": self._paid(RpcCommands(calls).rpc),
            "ping": _nothing,
        }

    def _paid(self, handler: Handler) -> Handler:
        spend = self._spend
        if spend is None:
            return handler

        async def pay(session: Session, command: centrifuge.Command) -> object:
            await spend(session.tenant)
            return await handler(session, command)

        return pay

    async def run(self, session: Session) -> None:
        """Handle a session's backlog in order; subscribes of different channels run together."""
        until = monotonic() + _TURN
        while session.next_commands():
            together = self._take(session)
            if len(together) == 1:
                await self._one(session, together[0])
            else:
                async with asyncio.TaskGroup() as group:
                    for command in together:
                        group.create_task(self._one(session, command))
            if monotonic() >= until:
                await asyncio.sleep(0)  # much of this never waits by itself, and the answers must leave
                until = monotonic() + _TURN

    def _take(self, session: Session) -> list[centrifuge.Command]:
        backlog = session.talking().backlog
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
        elif method and not command.id and method != "send":
            session.close(codes.BAD_PROTOCOL)
        elif self._within_rate(session, command, method) and method != "send":
            await self._answer(session, command, self._handlers.get(method, _unknown))

    def _within_rate(self, session: Session, command: centrifuge.Command, method: str) -> bool:
        """Count a command; one that comes too fast is answered here."""
        verdict = session.charge(1)
        if verdict is Verdict.FINE:
            return True
        self._hub.counters.refused += 1
        if verdict is Verdict.FLOOD:
            return False
        if method == "unsubscribe":
            return True  # never refused: clients take that for a broken connection
        if command.id:
            session.reply(replies.refuse(command.id, codes.TOO_MANY_REQUESTS))
        return False

    async def _answer(self, session: Session, command: centrifuge.Command, handler: Handler) -> None:
        try:
            result = await handler(session, command)
        except Closed:
            return
        except Refused as refused:
            self._refuse(session, command, refused.refusal)
        except GatewayError as error:
            self._refuse(session, command, codes.refusal_of(error))
        else:
            session.failures = 0
            session.reply(replies.reply(command.id, command.method, result))

    def _refuse(self, session: Session, command: centrifuge.Command, refusal: Refusal) -> None:
        session.reply(replies.refuse(command.id, refusal))
        if refusal.temporary:
            return  # not the client's fault, and 3509 would be for good
        session.failures += 1
        if session.failures >= self._hub.options.errors:
            session.close(codes.TOO_MANY_ERRORS)

    async def _first(self, session: Session, command: centrifuge.Command) -> None:
        """Only `connect`, once, with an id; anything else closes."""
        if command.connect is None or session.connected or not command.id:
            session.close(codes.BAD_PROTOCOL)
            return
        await self._answer(session, command, self._connect)
        if not session.connected:
            session.drop_subscriptions()
            session.talking().backlog.clear()  # the rest of the message counted on being connected


async def _nothing(_session: Session, _command: centrifuge.Command) -> None:
    """`ping`: the answer is all there is to it."""


async def _unknown(_session: Session, _command: centrifuge.Command) -> None:
    """A command with an id and nothing we know."""
    raise Refused(codes.METHOD_NOT_FOUND)
