"""What a Centrifuge client is to the hub, whatever carries its messages: answers, pushes, catching up."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

import msgspec

from gateway.auth.principals import Credential, Principal
from gateway.errors import GatewayError
from gateway.fanout import centrifuge, codes, limits, resume
from gateway.fanout.connection import Connection, DuplexSink, Subscription
from gateway.fanout.frames import MAX_MESSAGE
from gateway.fanout.limits import Verdict
from gateway.fanout.topic import Topic
from gateway.fanout.wire import MAX_BATCH, Entry, encode_pub, fill, pushes

if TYPE_CHECKING:
    from gateway.fanout.hub import Hub

PAGE = 100  # publications per read when the ring does not reach back


class Session(Connection):
    """One client.

    Attributes:
        client: the id the client is told.
        principal: who it is; None until `connect` succeeded, unless the HTTP request said so.
        connected: `connect` has succeeded.
        expires: loop time at which the token ends.
        warned: the client has been told that it has ended.
        inbox: messages not yet looked at.
        backlog: commands of the message being handled.
        paid_until: see `limits.spend`.
        failures: commands refused since the last that was not.
    """

    __slots__ = (
        "_flushing",
        "_fresh",
        "_held",
        "_out",
        "backlog",
        "client",
        "connected",
        "expires",
        "failures",
        "inbox",
        "paid_until",
        "principal",
        "warned",
    )

    sink: DuplexSink

    def __init__(self, hub: Hub, principal: Principal | None) -> None:
        super().__init__(hub)
        self.principal = principal
        self.client = str(uuid.uuid4())
        self.connected = self.warned = False
        self.expires = inf
        self.inbox: deque[bytes] = deque()
        self.backlog: deque[centrifuge.Command] = deque()
        self.paid_until, self.failures = 0.0, 0
        self._flushing = self._held = False
        self._out: list[bytes] = []
        self._fresh: list[Subscription] = []

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
        while not self.backlog and self.inbox and not self.closing:
            try:
                commands = centrifuge.decode(self.inbox.popleft())
            except centrifuge.Malformed:
                self.close(codes.BAD_PROTOCOL)
            else:
                self.backlog.extend(command for command in commands if command.id or command.method)
                # Pongs and what says nothing are not handled, so they are paid for here.
                if len(self.backlog) < len(commands):
                    self.charge(len(commands) - len(self.backlog))
            self.regulate()
        return bool(self.backlog) and not self.closing and self.paused_at is None

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
        inbox = self.inbox
        full = len(inbox) > self.hub.options.backlog or (len(inbox) > 1 and sum(map(len, inbox)) > MAX_MESSAGE)
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

    def send(self, message: bytes) -> None:
        """Write one message."""
        raise NotImplementedError

    def close(self, told: codes.Disconnect) -> None:
        """Say why, and end."""
        raise NotImplementedError

    def adopt(self, principal: Principal) -> int:
        """Take a verified principal; returns the seconds its token is still good for (0: for ever)."""
        # What the token says of its channels has been used; thousands of connections need not keep it.
        self.principal = principal if principal.subs is None else msgspec.structs.replace(principal, subs=None)
        self.warned = False
        if principal.expires_at is None:
            self.expires = inf
            return 0
        left = principal.expires_at - time.time()
        self.expires = self.hub.loop.time() + left
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
        self.reply(centrifuge.refresh_push(max(1, round(ends - now))))
        return ends

    # Answering.

    def reply(self, line: bytes) -> None:
        """Answer a command. Answers made in one turn leave together."""
        self._out.append(line)
        if not self._flushing:
            self._flushing = True
            self.hub.loop.call_soon(self.flush)

    def admit(self, subscription: Subscription) -> None:
        """Let a subscription's pushes follow its reply, and not overtake it."""
        subscription.fetching = True
        self._fresh.append(subscription)
        self.subscriptions[subscription.topic.channel] = subscription

    def flush(self) -> None:
        """Write the answers, then what the new subscriptions are owed."""
        self._flushing = False
        out, self._out = self._out, []
        fresh, self._fresh = self._fresh, []
        if self.closed:
            return
        for message in centrifuge.join(out, MAX_BATCH):
            self.send(message)
        for subscription in fresh:
            subscription.fetching = False
        if fresh and not self.closing and self.catch_up():
            self.hub.pump.resume(self)

    # Catching up.

    def catch_up(self) -> bool:
        """Write one frame for each lagging subscription."""
        more = False
        for subscription in list(self.subscriptions.values()):
            if self.paused_at is not None:
                return False
            if not subscription.live and not subscription.fetching:
                more |= self.advance(subscription)
        return more and self.paused_at is None

    def advance(self, subscription: Subscription) -> bool:
        """See `Connection.advance`. A subscription that has everything joins the passes."""
        topic = subscription.topic
        if topic.holding:
            return False  # the end of the repair wakes us
        missed = topic.after(subscription.offset)
        if missed is None:
            subscription.lag()
            subscription.fetching = True
            self.hub.spawn(self, self._fetch(subscription))
            return False
        part = fill(missed)
        self._push(subscription, part)
        if len(part) < len(missed):
            return True
        subscription.offset = max(subscription.offset, topic.head)
        if not subscription.live and self.paused_at is None:
            subscription.go_live()
        return False

    def _push(self, subscription: Subscription, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        slow = not subscription.live and not subscription.recovering
        slices = resume.conflate(entries) if slow else resume.whole(entries)
        counters = self.hub.counters
        counters.conflated += len(entries) - len(slices)
        counters.deliveries += len(slices)
        subscription.offset = entries[-1].publication.offset
        pubs = [encode_pub(part.entry.publication, part.skipped) if part.skipped else part.entry.pub for part in slices]
        self.send(pushes(subscription.topic.prefix, pubs))

    async def _fetch(self, subscription: Subscription) -> None:
        """Read one page from the history: the ring no longer reaches back."""
        topic, epoch = subscription.topic, subscription.topic.epoch
        try:
            history = await self.hub.reads.history(topic, topic.position._replace(offset=subscription.offset), PAGE)
        except GatewayError:
            self.close(codes.SERVER_ERROR)  # the client comes back and recovers
            return
        finally:
            subscription.fetching = False
        if self.closing or self.subscriptions.get(topic.channel) is not subscription or topic.epoch != epoch:
            return
        if not history.complete:
            self._lose(subscription)
            return
        part = fill([Entry(publication) for publication in history.publications])
        self._push(subscription, part)
        if len(part) == len(history.publications) < PAGE:
            subscription.offset = max(subscription.offset, history.offset)
        self.hub.pump.resume(self)

    def lose(self, topic: Topic, reason: str) -> None:
        """See `Connection.lose`: the client subscribes again and is told `recovered: false`."""
        del reason
        subscription = self.subscriptions.get(topic.channel)
        if subscription is not None:
            self._lose(subscription)

    def _lose(self, subscription: Subscription) -> None:
        if subscription.server_side:
            self.close(codes.INSUFFICIENT_STATE)  # it cannot ask again, but it can connect again
        else:
            self.end(subscription, codes.INSUFFICIENT)

    def end(self, subscription: Subscription, told: codes.Unsubscribe | None) -> None:
        """End one subscription, and say why unless the client asked for it."""
        topic = subscription.topic
        if self.subscriptions.get(topic.channel) is subscription:
            del self.subscriptions[topic.channel]
            subscription.end()
            self.hub.release(topic)
            if told is not None:
                self.reply(centrifuge.unsubscribe_push(topic.channel, told))
