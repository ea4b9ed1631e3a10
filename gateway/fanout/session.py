"""What a Centrifuge client is to the hub, whatever carries its messages: who it is, its rate, its answers."""

from __future__ import annotations

import time
import uuid
from math import inf
from typing import TYPE_CHECKING

import msgspec

from gateway.auth.principals import Credential, Principal
from gateway.fanout import centrifuge, codes, limits, replies
from gateway.fanout.connection import DuplexSink, Subscription
from gateway.fanout.limits import Verdict
from gateway.fanout.subscriber import Subscriber
from gateway.fanout.talk import Talk
from gateway.fanout.wire import MAX_BATCH

if TYPE_CHECKING:
    from gateway.fanout.hub import Hub


class Session(Subscriber):
    """One client.

    Attributes:
        client: the id the client is told.
        principal: who it is; None until `connect` succeeded, unless the HTTP request said so.
        connected: `connect` has succeeded.
        expires: loop time at which the token ends; for whom it cannot be renewed, earlier by the time for that.
        warned: the client has been told that it has ended, or need not be told.
        talk: what waits to be handled or written, None while the client is silent.
        paid_until: see `limits.spend`.
        failures: commands refused for good since the last that was not refused.
    """

    __slots__ = (
        "_held",
        "client",
        "connected",
        "expires",
        "failures",
        "paid_until",
        "principal",
        "talk",
        "warned",
    )

    sink: DuplexSink

    def __init__(self, hub: Hub, principal: Principal | None) -> None:
        super().__init__(hub)
        self.principal = principal
        self.client = str(uuid.uuid4())
        self.connected = self.warned = False
        self.expires = inf
        self.talk: Talk | None = None
        self.paid_until, self.failures = 0.0, 0
        self._held = False

    @property
    def tenant(self) -> str:
        """Whose channels this connection sees."""
        return self.principal.tenant if self.principal else ""

    @property
    def secret(self) -> str:
        """Under what name further commands reach it by other ways than its own connection, or empty."""
        return ""

    @property
    def pongs(self) -> bool:
        """Whether it answers pings."""
        return True

    def next_commands(self) -> bool:
        """Read the next message into the backlog, when that is empty; False when there is nothing to do now.

        Nothing is done for a client that does not read its answers; `work` goes on when it does.
        """
        talk = self.talking()
        while not talk.backlog and talk.inbox and not self.closing:
            try:
                commands = centrifuge.decode(talk.inbox.popleft())
            except centrifuge.Malformed:
                self.close(codes.BAD_PROTOCOL)
            else:
                talk.backlog.extend(command for command in commands if command.id or command.method)
                # Pongs and what says nothing are not handled, so they are paid for here.
                if len(talk.backlog) < len(commands):
                    self.charge(len(commands) - len(talk.backlog))
            self.regulate()
        return bool(talk.backlog) and not self.closing and self.paused_at is None

    def talking(self) -> Talk:
        """Return the talk that is going on, or begin one."""
        talk = self.talk
        if talk is None:
            talk = self.talk = Talk()
        return talk

    def fall_silent(self) -> None:
        """Drop the talk when it is over."""
        if self.talk is not None and self.talk.over:
            self.talk = None

    def work(self) -> None:
        """Handle what waits, if anything does: whoever runs the commands goes on here."""

    def charge(self, count: int) -> Verdict:
        """Count what a client sends against its rate; one that floods is closed, one that goes on then is cut off."""
        options = self.hub.options
        self.paid_until, verdict = limits.spend(
            self.paid_until, self.hub.loop.time(), count, rate=options.rate, burst=options.burst
        )
        if verdict is Verdict.FLOOD:
            if self.closing:
                self.abort()
            else:
                self.close(codes.TOO_MANY)
        return verdict

    def regulate(self) -> None:
        """Listen to the client only while it reads its answers and we keep up with its commands."""
        full = self.talk is not None and self.talk.full(self.hub.options.backlog)
        hold = not self.closing and (self.paused_at is not None or full)
        if hold != self._held:
            self._held = hold
            (self.sink.pause_reading if hold else self.sink.resume_reading)()

    def pause_writing(self) -> None:
        """See `Connection`."""
        super().pause_writing()
        self.regulate()

    def resume_writing(self) -> None:
        """See `Connection`."""
        super().resume_writing()
        self.regulate()
        self.work()

    def adopt(self, principal: Principal, *, renewable: bool = True) -> int:
        """Take a verified principal; returns the seconds after which the client must bring a newer token (0: never).

        Who was known by the HTTP request alone has no token to renew: the connection just ends when that does.
        """
        # What the token says of its channels has been used; thousands of connections need not keep it.
        self.principal = principal if principal.subs is None else msgspec.structs.replace(principal, subs=None)
        self.warned = not renewable
        if principal.expires_at is None:
            self.expires = inf
            return 0
        left = principal.expires_at - time.time()
        self.expires = self.hub.loop.time() + left
        if not renewable:
            self.expires -= self.hub.options.grace  # there is nothing to wait for
            return 0
        return max(1, round(left))

    @property
    def credential(self) -> Credential | None:
        """See `Connection.credential`."""
        return self.principal.credential if self.principal else None

    def revoke(self) -> None:
        """See `Connection.revoke`: the client gets a new token, or stops."""
        self.close(codes.STATE_INVALIDATED)

    def warn(self, now: float) -> float:
        """Warn once when the token has ended; returns when to come back for it.

        The known clients refresh by themselves at that moment and ignore the push; it is for others.
        """
        ends = self.expires + self.hub.options.grace
        if self.warned or not self.connected:
            return ends
        if now < self.expires:
            return self.expires
        self.warned = True
        self.reply(replies.refresh_push(max(1, round(ends - now))))
        return ends

    # Answering.

    def reply(self, line: bytes) -> None:
        """Answer a command. Answers made in one turn leave together; none follows a close (RFC 6455 section 5.5.1)."""
        if self.closing:
            return
        talk = self.talking()
        talk.out.append(line)
        if not talk.flushing:
            talk.flushing = True
            self.hub.loop.call_soon(self.flush)

    def admit(self, subscription: Subscription) -> None:
        """Let a subscription's pushes follow its reply, and not overtake it."""
        subscription.fetching = True
        self.talking().fresh.append(subscription)
        self.subscriptions[subscription.topic.channel] = subscription

    def flush(self) -> None:
        """Write the answers, then what the new subscriptions are owed."""
        talk = self.talk
        if talk is None:
            return
        out, fresh = talk.out, talk.fresh
        talk.out, talk.fresh, talk.flushing = [], [], False
        self.fall_silent()
        if self.closing:
            return
        for message in replies.join(out, MAX_BATCH):
            self.send(message)
        for subscription in fresh:
            subscription.fetching = False
        if fresh and self.catch_up():
            self.hub.pump.resume(self)
