"""Subscribers that come back for ever and remember everything: their story is counted, not sampled.

Every event published in these tests carries a number, 0, 1, 2 …, as its data. A subscriber keeps the numbers it saw
and where it was told that continuity was not proven. Between two such places the numbers must follow each other
without a gap and without a repeat; what does not is kept in `wrong`.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from typing import Any, NamedTuple, Self, cast

from tests.faults.wire import CLOSE, UPGRADE, Cutter, frame

_PUB = re.compile(rb'"data":(\d+)\},"offset":(\d+)')
_BLOCK_DATA = re.compile(rb'"data":(\d+)\}$')


class Told(NamedTuple):
    """Said when so many numbers had been seen."""

    after: int
    reason: str


class Crowd:
    """What subscribers share: where to connect to, who they are, and what has been decoded already.

    Attributes:
        ports: gateways that take connections.
        channels: every event goes to all of them.
        credential: sent as `connect.token` and as bearer, when not empty.
    """

    def __init__(self, ports: list[int], channels: list[str], credential: str = "") -> None:
        self.ports, self.channels, self.credential = ports, channels, credential
        self.decoded: dict[bytes, list[tuple[int, int]]] = {}
        self.members: list[Subscriber] = []
        self.tasks: asyncio.TaskGroup
        self.gate = asyncio.Event()
        self.gate.set()
        self.over = False

    async def __aenter__(self) -> Self:
        self.tasks = asyncio.TaskGroup()
        await self.tasks.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.over = True
        self.gate.set()
        for member in self.members:
            member.leave()
        await self.tasks.__aexit__(None, None, None)

    def join(self, *members: Subscriber) -> None:
        for member in members:
            self.members.append(member)
            member.come(0.0)

    def send_away(self) -> None:
        """Cut everyone off; they come back when the gate is open again."""
        self.gate.clear()
        for member in self.members:
            member.leave()

    async def ready(self, limit: float = 30) -> None:
        """Wait until everyone has a position."""
        await self._until(lambda member: member.ready, limit)

    async def reach(self, last: int, limit: float = 60) -> None:
        """Wait until everyone has seen a number."""
        await self._until(lambda member: bool(member.seen) and member.seen[-1] >= last, limit)

    async def _until(self, good: Any, limit: float) -> None:
        deadline = asyncio.get_running_loop().time() + limit
        while missing := [member for member in self.members if not good(member)]:
            late = asyncio.get_running_loop().time() > deadline
            assert not late, f"{len(missing)} of {len(self.members)}, one of them: {missing[0]!r}"
            await asyncio.sleep(0.02)

    def nobody_missed_anything(self, first: int, last: int) -> int:
        """All of it, once, in order, and nobody was told otherwise; returns how many deliveries were counted."""
        expected = list(range(first, last + 1))
        for member in self.members:
            assert not member.wrong, repr(member)
            assert not member.told, repr(member)
            assert member.seen == expected, repr(member)
        return len(expected) * len(self.members)

    def everybody_knows(self, first: int, last: int) -> int:
        """As above, except that everybody was told, and may miss what lies there; returns how many numbers do."""
        missed = 0
        for member in self.members:
            assert not member.wrong, repr(member)
            assert member.told, repr(member)
            assert member.seen[-1] == last, repr(member)
            assert member.seen[0] == first or member.told[0].after == 0, repr(member)
            missed += last + 1 - first - len(set(member.seen))
        return missed


class Subscriber(asyncio.Protocol):
    """Connects, reads, and after a loss connects again, to any gateway, with its position."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.seen: list[int] = []
        self.told: list[Told] = []
        self.wrong: list[str] = []
        self.ready = False
        self.losses = 0
        self.transport: asyncio.Transport | None = None
        self._input = Cutter()
        self._opened = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} saw {len(self.seen)}, last {self.seen[-3:]}, {self.told=} {self.wrong=}>"

    def come(self, pause: float) -> None:
        if not self.crowd.over:
            self.crowd.tasks.create_task(self._come(pause))

    async def _come(self, pause: float) -> None:
        await asyncio.sleep(pause)
        await self.crowd.gate.wait()
        if self.crowd.over:
            return
        port = random.choice(self.crowd.ports)
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)
        except OSError:
            self.come(random.uniform(0.05, 0.3))

    def leave(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._input, self._opened = Cutter(), False
        self.transport.write(self.greeting())

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.transport = None
        self.losses += 1
        self.come(random.uniform(0.02, 0.4))

    def data_received(self, data: bytes) -> None:
        try:
            self._input.add(data)
            if not self._opened:
                head = self._input.head()
                if head is None:
                    return
                self._opened = True
                self.opened(head)
            self.read()
        except (AssertionError, KeyError, ValueError) as error:
            self.wrong.append(repr(error))

    def greeting(self) -> bytes:
        raise NotImplementedError

    def opened(self, head: bytes) -> None:
        raise NotImplementedError

    def read(self) -> None:
        raise NotImplementedError

    def tell(self, reason: str) -> None:
        self.told.append(Told(len(self.seen), reason))

    def see(self, number: int) -> None:
        if self.seen:
            before = self.seen[-1]
            told = bool(self.told) and self.told[-1].after == len(self.seen)
            # What a server forgot may be published again, under a new epoch: the last number once more.
            if not (number >= before if told else number == before + 1):
                self.wrong.append(f"{number} after {before}, {told=}")
        self.seen.append(number)


class Socket(Subscriber):
    """A WebSocket subscriber of the crowd's first channel."""

    def __init__(self, crowd: Crowd, position: tuple[str, int] | None = None) -> None:
        super().__init__(crowd)
        self.position = position
        self._next = 1

    def greeting(self) -> bytes:
        return UPGRADE

    def opened(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 101 "):
            self.wrong.append(head[:80].decode())
        self._next = 1
        credential = {"token": self.crowd.credential} if self.crowd.credential else {}
        self._send({"id": 1, "connect": credential})
        self._subscribe()

    def _subscribe(self) -> None:
        self._next += 1
        request: dict[str, Any] = {"channel": self.crowd.channels[0]}
        if self.position is not None:
            request |= {"recover": True, "epoch": self.position[0], "offset": self.position[1]}
        self._send({"id": self._next, "subscribe": request})

    def _send(self, command: dict[str, Any]) -> None:
        if self.transport is not None:
            self.transport.write(frame(json.dumps(command).encode()))

    def read(self) -> None:
        for first, payload in self._input.frames():
            if first == CLOSE:
                if self.transport is not None:
                    self.transport.abort()
                return
            self._message(payload)

    def _message(self, payload: bytes) -> None:
        known = self.crowd.decoded.get(payload)
        if known is None and payload.startswith(b'{"push":') and b'"unsubscribe":' not in payload[:300]:
            known = [(int(offset), int(number)) for number, offset in _PUB.findall(payload)]
            assert len(known) == payload.count(b"\n") + 1, payload[:300]
            self.crowd.decoded[payload] = known
        if known is not None:
            for offset, number in known:
                self._take(offset, number)
            return
        for line in payload.split(b"\n"):
            self._line(line)

    def _line(self, line: bytes) -> None:
        message = json.loads(line)
        if not message:
            self._send({})
        elif "push" in message:
            self._push(message["push"])
        elif "error" in message:
            self.leave()  # temporary by nature here: come back
        elif "subscribe" in message:
            self._joined(message["subscribe"])

    def _push(self, push: dict[str, Any]) -> None:
        if "pub" in push:
            self._take(push["pub"]["offset"], push["pub"]["data"]["data"])
        else:
            self.tell(f"unsubscribe {push['unsubscribe']['code']}")
            self._subscribe()

    def _joined(self, result: dict[str, Any]) -> None:
        self.ready = True
        if self.position is None:
            self.position = (result["epoch"], result.get("offset", 0))
        elif not result.get("recovered", False):
            self.tell("recovered: false")
            self.position = (result["epoch"], result.get("offset", 0))
        else:
            self.position = (result["epoch"], self.position[1])
            for pub in result.get("publications", ()):
                self._take(pub["offset"], pub["data"]["data"])

    def _take(self, offset: int, number: int) -> None:
        assert self.position is not None
        if offset != self.position[1] + 1:
            self.wrong.append(f"offset {offset} after {self.position[1]}")
        self.position = (self.position[0], offset)
        self.see(number)


class Stream(Subscriber):
    """An SSE subscriber of the crowd's first channel, or of all of them."""

    def __init__(self, crowd: Crowd, cursor: str = "", *, wide: bool = False) -> None:
        super().__init__(crowd)
        self.cursor = cursor
        self._channels = crowd.channels if wide else crowd.channels[:1]

    def greeting(self) -> bytes:
        query = "&".join(f"channel={name}" for name in self._channels)
        lines = [f"GET /v1/stream?{query} HTTP/1.1", "Host: localhost"]
        if self.cursor:
            lines.append(f"Last-Event-ID: {self.cursor}")
        if self.crowd.credential:
            lines.append(f"Authorization: Bearer {self.crowd.credential}")
        return "\r\n".join([*lines, "", ""]).encode()

    def opened(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 200 "):
            self.wrong.append(head[:80].decode())

    def read(self) -> None:
        for block in self._input.blocks():
            self._block(block)

    def _block(self, block: bytes) -> None:
        fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if line[:1] != b":" and b": " in line)
        name = fields.get(b"event", b"")
        if b"id" in fields:
            self.cursor = fields[b"id"].decode()
        if name == b"gateway.open":
            self.ready = True
        elif name == b"gateway.reset":
            self.tell("reset: " + fields[b"data"].decode())
        elif name and name != b"gateway.bye":
            found = _BLOCK_DATA.search(fields[b"data"])
            assert found, block
            self.see(int(found[1]))
