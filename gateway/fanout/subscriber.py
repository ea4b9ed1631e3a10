"""A Centrifuge client as a reader of channels: pushes, catching up, losing a channel's continuity."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.errors import GatewayError
from gateway.fanout import codes, replies, resume
from gateway.fanout.connection import Connection, Subscription
from gateway.fanout.topic import Topic
from gateway.fanout.wire import Entry, encode_pub, fill, pushes

PAGE = 100  # publications per read when the ring does not reach back


class Subscriber(Connection):
    """What a session is to its topics; whatever it has to say it says by `send`, `reply` and `close`."""

    __slots__ = ()

    def send(self, message: bytes) -> None:
        """Write one message."""
        raise NotImplementedError

    def reply(self, line: bytes) -> None:
        """Say one line; lines of one turn of the loop leave together."""
        raise NotImplementedError

    def close(self, told: codes.Disconnect) -> None:
        """Say why, and end."""
        raise NotImplementedError

    def catch_up(self) -> bool:
        """Write one frame for each lagging subscription."""
        more = False
        for subscription in list(self.subscriptions.values()):
            if self.paused_at is not None:
                return False
            if not subscription.live and not subscription.fetching:
                more |= self.advance(subscription)
        return more and self.paused_at is None

    def settle(self) -> None:
        """Write all that has arrived here, as far as the reader takes it."""
        for subscription in list(self.subscriptions.values()):
            while self.paused_at is None and not subscription.fetching and self.advance(subscription):
                pass

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
                self.reply(replies.unsubscribe_push(topic.channel, told))
