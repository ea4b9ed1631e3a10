"""A WebSocket connection that speaks the Centrifuge protocol: frames, pings, pushes, catching up."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, ClassVar

from gateway.auth.principals import Principal
from gateway.fanout import centrifuge, codes, frames
from gateway.fanout.frames import FrameReader
from gateway.fanout.session import Session
from gateway.fanout.talk import Talk
from gateway.fanout.wire import Wire

if TYPE_CHECKING:
    from gateway.fanout.commands import Commands
    from gateway.fanout.hub import Hub

_SLICE = 4096  # bytes read at once of what is not plain frames


class WebSocketConnection(Session):
    """One WebSocket client; `wire` says whether it writes frames to a transport or messages to a sink."""

    __slots__ = ("_awaiting_pong", "_commands", "_ping_at", "_reader")
    limit: ClassVar[int] = frames.MAX_MESSAGE

    def __init__(self, hub: Hub, commands: Commands, principal: Principal | None, *, wire: Wire) -> None:
        super().__init__(hub, principal)
        self.wire = wire
        self._commands = commands
        self._awaiting_pong = False
        self._reader: FrameReader | None = None
        # The first ping goes out when the connect deadline is looked at.
        self._ping_at = hub.loop.time() + hub.options.connect
        hub.wheel.add(self, self._ping_at)

    # Reading.

    def data_received(self, data: bytes) -> None:
        """Take bytes from the transport."""
        if self._reader is None:
            messages, used = frames.plain(data, self.limit)
            for message in messages:
                self.receive(message)
            if used == len(data):
                return
            self._reader, data = FrameReader(self.limit), data[used:]
        for start in range(0, len(data), _SLICE):
            if not self._read(self._reader, data[start : start + _SLICE]):
                return
        if self._reader is not None and self._reader.idle:
            self._reader = None

    def _read(self, reader: FrameReader, data: bytes) -> bool:
        """Read a little of what is not plain: tiny frames take long. False when nothing more is to be read."""
        received = reader.feed(data)
        if received.reply and not received.closed and not self.closing:
            self.sink.write(received.reply)
        for message in received.messages:
            self.receive(message)
        if received.closed:
            self.hang_up(received.reply)
            return False
        self.charge(received.frames)
        return not self.sink.is_closing()

    def hang_up(self, last: bytes) -> None:
        """The peer has closed, or broke the protocol: the closing handshake is over, unless ours began it."""
        if last and not self.closing:
            self.sink.write(last)
        self.closing = True
        self.drop_subscriptions()
        self.sink.close()

    def receive(self, message: bytes) -> None:
        """Take one complete text message."""
        if self.closing:
            return
        self._awaiting_pong = False  # whatever a client says, it is alive
        if message == centrifuge.PING:
            self.charge(1)
            return
        try:
            message.decode()
        except UnicodeDecodeError:
            self.close(codes.Disconnect(frames.INVALID_DATA, "invalid UTF-8"))
            return
        self.take(message)

    def take(self, message: bytes) -> None:
        """Put a message where the commands are read from."""
        self.talking().inbox.append(message)
        self.regulate()
        self.work()

    def work(self) -> None:
        """See `Session.work`."""
        talk = self.talk
        if talk is not None and not talk.running and (talk.backlog or talk.inbox) and not self.closing:
            talk.running = True
            self.hub.spawn(self, self._run(talk))

    async def _run(self, talk: Talk) -> None:
        try:
            await self._commands.run(self)
        finally:
            talk.running = False
            self.fall_silent()

    # Writing.

    def send(self, message: bytes) -> None:
        """Write one message."""
        self.sink.write(frames.text(message) if self.wire is Wire.FRAME else message)

    def close(self, told: codes.Disconnect) -> None:
        """Say why, and wait a little for the peer to answer; `on_deadline` ends it otherwise."""
        if self.closing:
            return
        self.flush()
        self.closing = True
        self.hub.counters.count_close(str(told.code))
        self.drop_subscriptions()
        if self.talk is not None:
            self.talk.forget()
        self.say_goodbye(told)
        self.hub.wheel.add(self, self.hub.loop.time() + self.hub.options.farewell)

    def say_goodbye(self, told: codes.Disconnect) -> None:
        """Send the close frame."""
        self.regulate()  # the answer to it must get through
        self._reader = self._reader or FrameReader(self.limit)
        if self.wire is Wire.FRAME:
            self.sink.write(frames.close(told.code, told.reason))
        else:
            self.sink.close_with(told.code, told.reason)  # type: ignore[attr-defined] # the ASGI WebSocket sink has it

    def farewell(self) -> None:
        """Close with 3001, behind all that has arrived here: come back, elsewhere."""
        self.settle()
        self.close(codes.SHUTDOWN)

    # Time.

    def on_deadline(self, now: float) -> float | None:
        """Ping, and close what is stale, expired, stuck or silent."""
        if self.closed:
            return None
        if self.closing:
            self.abort()
            return None
        told = self._overdue(now)
        if told is not None:
            self.close(told)
            return None
        options = self.hub.options
        if not self.connected:
            return self._ping_at + options.connect
        if now >= self._ping_at:
            self._ping_at = now + options.ping
            self._awaiting_pong = self.paused_at is None
            if self._awaiting_pong:
                self.send(centrifuge.PING)
        stuck = inf if self.paused_at is None else self.paused_at + options.stuck
        return min(self._ping_at, self.warn(now), stuck, self._end_expired(now))

    def _overdue(self, now: float) -> codes.Disconnect | None:
        options = self.hub.options
        if not self.connected:
            # Clients never come back after "stale"; that we take long to answer `connect` is not their fault.
            if self.talk is None or not self.talk.running:
                return codes.STALE
            return codes.SERVER_ERROR if now >= self._ping_at + options.connect else None
        if now >= self.expires + options.grace:
            return codes.CONNECTION_EXPIRED
        if self.paused_at is not None:
            return codes.SLOW if now - self.paused_at >= options.stuck else None
        return codes.NO_PONG if self._awaiting_pong and now >= self._ping_at else None

    def _end_expired(self, now: float) -> float:
        """End subscriptions whose token is too old; returns when the next one will be."""
        following, grace = inf, self.hub.options.grace
        for subscription in list(self.subscriptions.values()):
            if subscription.expires is None:
                continue
            if now >= subscription.expires + grace:
                self.end(subscription, codes.SUBSCRIPTION_EXPIRED)
            else:
                following = min(following, subscription.expires + grace)
        return following
