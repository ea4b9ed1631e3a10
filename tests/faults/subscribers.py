"""Subscribers that come back for ever and remember everything: their story is counted, not sampled.

Every event published in these tests carries a number, 0, 1, 2 …, as its data. A subscriber keeps the numbers it saw
and where it was told that continuity was not proven. Between two such places the numbers must follow each other
without a gap and without a repeat; what does not is kept in `wrong`.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, NamedTuple, Self, cast

from tests.faults.wire import Cutter


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
