"""A server-sent event stream: one cursor over any number of channels of a tenant (DESIGN 3.6)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from gateway.auth.principals import Credential
from gateway.errors import GatewayError
from gateway.events import namespace
from gateway.fanout import resume, sse
from gateway.fanout.connection import Connection, Subscription
from gateway.fanout.topic import Topic
from gateway.fanout.wire import Entry, Wire, fill
from gateway.store.channels import Replay

if TYPE_CHECKING:
    from gateway.fanout.hub import Hub

PAGE = 100  # publications per read
_EPOCH = "epoch"  # why a topic begins again: see `Repairer`


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What a reader asked for.

    Attributes:
        tenant: whose channels.
        channels: their names, distinct.
        named: write `event:`; without it browsers dispatch everything as `message`.
        types: only events of these types, or None for all.
        sign: makes the MAC of a cursor for a stream opened with a ticket.
        expires_at: when (unix seconds) the reader's right to listen ends.
        credential: what it came with, for revocations.
    """

    tenant: str
    channels: tuple[str, ...]
    named: bool = True
    types: frozenset[str] | None = None
    sign: Callable[[str], str] | None = None
    expires_at: float | None = None
    credential: Credential | None = None

    @property
    def wire(self) -> Wire:
        """Shared blocks where nothing is particular to the reader."""
        shared = self.named and self.types is None and self.sign is None and len(self.channels) == 1
        return Wire.BLOCK if shared else Wire.PULL


class Stream(Connection):
    """One SSE reader.

    Attributes:
        cursor: the largest tenant sequence the reader has; everything it sees ascends from here.
        generation: of the cursor.
    """

    __slots__ = ("_broken", "_expires", "_fetching", "_first", "_recovering", "cursor", "generation", "spec")

    def __init__(self, hub: Hub, spec: StreamSpec) -> None:
        super().__init__(hub)
        self.spec = spec
        self.wire = spec.wire
        self.cursor, self.generation = 0, ""
        self._broken, self._fetching, self._recovering = "", False, True
        self._first: tuple[Sequence[Topic], bytes] = ((), b"")
        now = hub.loop.time()
        self._expires = inf if spec.expires_at is None else now + spec.expires_at - time.time()

    def prepare(self, topics: Sequence[Topic], first: bytes) -> None:
        """Say what the reader gets at once, and what it joins, when the connection is ours."""
        self._first = (topics, first)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Write the first blocks and join the topics."""
        del transport
        (topics, first), self._first = self._first, ((), b"")
        self.sink.write(first)
        for topic in topics:
            self.subscriptions[topic.channel] = Subscription(self, topic, topic.head)
        comment = self.hub.loop.time() + random.uniform(0.5, 1) * self.hub.options.comment  # noqa: S311 - jitter
        self.hub.wheel.add(self, min(comment, self._expires))
        while self.catch_up():
            pass

    def signed(self, cursor: str) -> str:
        """Return a cursor as this reader gets it."""
        return cursor if self.spec.sign is None else f"{cursor}.{self.spec.sign(cursor)}"

    @property
    def position(self) -> str:
        """The reader's present cursor."""
        return self.signed(sse.Cursor(self.generation, self.cursor).text)

    # Reading.

    def advance(self, subscription: Subscription) -> bool:
        """See `Connection.advance`; a stream always looks at all its topics, to keep them in order."""
        del subscription
        return self._pull()

    def catch_up(self) -> bool:
        """Write one batch of what was missed; join the passes when nothing is left."""
        if self._fetching or self._pull():
            return not self._fetching
        if self.paused_at is None and not self._fetching and not self._held():
            for subscription in self.subscriptions.values():
                subscription.offset = subscription.topic.head
                if not subscription.live:
                    subscription.go_live()
            self._recovering = False
        return False

    def _held(self) -> bool:
        return any(subscription.topic.holding for subscription in self.subscriptions.values())

    def _pull(self) -> bool:
        if self.paused_at is not None or self.closing or self._held():
            return False
        runs: list[Sequence[Entry]] = []
        for subscription in self.subscriptions.values():
            entries = subscription.topic.after_sequence(self.cursor)
            if entries is None:
                self._fetch()
                return False
            if entries:
                runs.append(entries)
        missed = resume.merge(runs, self.cursor)
        part = fill(missed)
        self._write(part)
        if len(part) == len(missed):
            for subscription in self.subscriptions.values():
                subscription.offset = subscription.topic.head
            return False
        return self.paused_at is None

    def _write(self, entries: Sequence[Entry]) -> None:
        if entries:
            self.cursor = entries[-1].publication.sequence
            self._send(self._encode_all(entries))

    def _encode_all(self, entries: Sequence[Entry]) -> bytes:
        # Only a reader that was live and slow since then may miss something.
        slow = not self._recovering and not all(held.live for held in self.subscriptions.values())
        slices = resume.conflate(entries) if slow else resume.whole(entries)
        self.hub.counters.conflated += len(entries) - len(slices)
        self.hub.counters.deliveries += len(slices)
        return b"".join([self._encode(part) for part in slices])

    def _send(self, data: bytes) -> None:
        if data and not self.closing:
            self.sink.write(data)

    def _encode(self, part: resume.Slice) -> bytes:
        spec, publication = self.spec, part.entry.publication
        if not self._wants(publication.type):
            return b""
        if spec.named and spec.sign is None and not part.skipped:
            return part.entry.block
        cursor = self.signed(part.entry.cursor).encode()
        return sse.publication_block(publication, cursor, named=spec.named, skipped=part.skipped)

    def _wants(self, type_: str) -> bool:
        return self.spec.types is None or type_ in self.spec.types

    # Reading from the store.

    def lose(self, topic: Topic, reason: str) -> None:
        """Start over with a `gateway.reset`; once for a generation, however many channels it ended on."""
        if reason != _EPOCH:
            self._broken = reason
        elif self._broken.partition(" ")[0] in ("", _EPOCH):
            self._broken = f"{_EPOCH} {sse.generation_of(topic.epoch)}"
        self._fetch()

    def _lost(self) -> str:
        """Why the stream must start over. Not for a generation it is in already: there the history is the judge."""
        reason, _, generation = self._broken.partition(" ")
        if generation and generation == self.generation:
            self._broken = reason = ""
        return reason

    def _fetch(self) -> None:
        for subscription in self.subscriptions.values():
            subscription.lag()
        if not self._fetching and not self.closing:
            self._fetching = True
            self.hub.spawn(self, self._read())

    async def _read(self) -> None:
        try:
            await self._read_page()
            while (reason := self._lost()) and not self.closing:
                self._broken = ""
                self._send(await self.restart(reason))
        except GatewayError:
            self.leave("unavailable")  # the reader comes back with its cursor
        finally:
            self._fetching = False
        self.hub.pump.resume(self)

    async def _read_page(self) -> None:
        if self._lost() or self.closing:
            return
        replay = await self.hub.reads.replay(self.spec, self.generation, self.cursor, PAGE)
        if not replay.complete:
            self._broken = self._broken or "history"
        elif not self._broken and not self.closing:
            self._send(self.take(replay))

    def take(self, replay: Replay) -> bytes:
        """Encode a page of history and move the cursor behind it."""
        entries = [Entry(publication) for _, publication in replay.publications]
        self.generation = replay.generation
        last = entries[-1].publication.sequence if entries else self.cursor
        self.cursor = last if replay.more else replay.sequence
        return self._encode_all(entries)

    async def restart(self, reason: str) -> bytes:
        """Go to the present; encode `gateway.reset` and, for job channels, each job's present state.

        The state is read after the new cursor, so nothing falls between them.
        """
        self.hub.counters.resets += 1
        self.generation, self.cursor = await self.hub.reads.head(self.spec)
        cursor = self.position
        parts = [sse.reset(cursor, reason)]
        for channel in self.spec.channels:
            if namespace(channel) == "job":
                state = await self.hub.job_state(self.spec.tenant, channel.partition(":")[2])
                if state is not None and self._wants(sse.type_of(state)):
                    parts.append(sse.state_block(state, cursor.encode(), named=self.spec.named))
        return b"".join(parts)

    # Time.

    def on_deadline(self, now: float) -> float | None:
        """Comment, expire, or give up on a stuck reader."""
        if self.closed:
            return None
        if self.closing:
            self.abort()
            return None
        options = self.hub.options
        reason = self._overdue(now)
        if reason:
            self.leave(reason)
            return now + options.farewell
        if self.paused_at is None:
            self.sink.write(sse.COMMENT if self.spec.types is None else sse.position(self.position))
            return min(now + options.comment, self._expires)
        return min(now + options.comment, self._expires, self.paused_at + options.stuck)

    def _overdue(self, now: float) -> str:
        if now >= self._expires:
            return "expired"
        stuck = self.paused_at is not None and now - self.paused_at >= self.hub.options.stuck
        return "slow" if stuck else ""

    @property
    def credential(self) -> Credential | None:
        """See `Connection.credential`."""
        return self.spec.credential

    def revoke(self) -> None:
        """See `Connection.revoke`."""
        self.leave("revoked")

    def farewell(self) -> None:
        """Say `gateway.bye` because the server goes away, behind all that has arrived here."""
        while not self._fetching and self._pull():
            pass
        self.leave("shutdown")

    def leave(self, reason: str) -> None:
        """Say `gateway.bye` with a reason and a jittered reconnect hint, and close."""
        if self.closing:
            return
        self.closing = True
        self.hub.counters.count_close(reason)
        self.drop_subscriptions()
        self.sink.write(sse.bye(reason, random.uniform(*self.hub.options.retry)))  # noqa: S311 - jitter
        self.sink.close()
