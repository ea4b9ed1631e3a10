"""Finding the server to connect to: the one of the URL, the master the Sentinels agree on, a node of a Cluster."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Protocol

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from gateway.store.address import Node, RedisAddress
from gateway.store.client import client

log = structlog.get_logger(__name__)

ASK_TIMEOUT = 1.0  # seconds a Sentinel or a node may take to say who serves what; then the next one is asked
FRESH = 0.2  # seconds an answer of the Sentinels is good for: a pool that reconnects asks once, not 64 times


class Places(Protocol):
    """Says where to connect. Every call may answer differently.

    Attributes:
        movable: whether another server may serve the same data tomorrow.
    """

    movable: bool

    async def find(self, avoid: Node | None = None) -> Node:
        """Return a server to connect to, if possible another than `avoid`, which has just disappointed.

        Raises:
            ConnectionError: the driver's: nobody can say.
        """


def places(address: RedisAddress) -> Places:
    """Return how to find a server of an address."""
    match address.kind:
        case "single":
            return Fixed(address.nodes[0])
        case "sentinel":
            return Sentinels(address)
        case "cluster":
            return Nodes(address)


class Fixed:
    """One server for ever."""

    movable = False

    def __init__(self, node: Node) -> None:
        self._node = node

    async def find(self, avoid: Node | None = None) -> Node:
        """See `Places`."""
        del avoid
        return self._node


class Sentinels:
    """The master of a name. Whoever connects must check that it is one (`ROLE`): a Sentinel may be behind.

    Attributes:
        latest: what the Sentinels said last.
        master: which server was found to be one last; whoever checks says so.
    """

    movable = True

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._order = list(address.nodes)
        self._asking = asyncio.Lock()
        self._until = 0.0
        self.latest: Node | None = None
        self.master: Node | None = None

    async def find(self, avoid: Node | None = None) -> Node:
        """See `Places`: there is one master, so `avoid` is not looked at."""
        del avoid
        loop = asyncio.get_running_loop()
        async with self._asking:
            if loop.time() >= self._until:
                # When nobody answers, the one known last is probably still it, and `ROLE` tells if not.
                self.latest = await self._ask() or self.latest
                self._until = loop.time() + FRESH  # no answer is an answer, too
        if self.latest is None:
            raise RedisConnectionError(f"no Sentinel knows a master {self._address.master!r}")
        return self.latest

    async def _ask(self) -> Node | None:
        address = self._address
        login = {"username": address.sentinel_username, "password": address.sentinel_password, "db": 0}
        for sentinel in tuple(self._order):
            answer = await _ask(address, sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.master, **login)
            # Whoever answered is asked first next time; who did not comes last.
            self._order.remove(sentinel)
            if answer:
                self._order.insert(0, sentinel)
                return Node(answer[0].decode(), int(answer[1]))
            self._order.append(sentinel)
        return None


class Nodes:
    """Any master of a Cluster: plain pub/sub reaches every node (docs/decisions/0005)."""

    movable = True

    def __init__(self, address: RedisAddress) -> None:
        self._address = address

    async def find(self, avoid: Node | None = None) -> Node:
        """See `Places`."""
        masters = set((await topology(self._address)).values())
        return random.choice(sorted(masters - {avoid}) or sorted(masters))  # noqa: S311 - spreads the load


_remembered: dict[RedisAddress, tuple[Node, ...]] = {}
"""The masters of each Cluster as whoever asked last learnt them: those of the URL may have been replaced."""


async def topology(address: RedisAddress, known: Sequence[Node] = ()) -> dict[range, Node]:
    """Ask a Cluster which master serves which slots: first the known nodes, then those of the URL.

    Known are also those that anybody in this process has learnt of.

    Raises:
        ConnectionError: the driver's: no node answers, or none serves anything.
    """
    seeds = random.sample(address.nodes, len(address.nodes))
    for node in dict.fromkeys([*known, *_remembered.get(address, ()), *seeds]):
        answer = await _ask(address, node, "CLUSTER", "SLOTS")
        if answer:
            found = {range(first, last + 1): _master(master, node) for first, last, master, *_ in answer}
            _remembered[address] = tuple({*found.values()})
            return found
    raise RedisConnectionError("no node of the Redis Cluster answers")


def _master(entry: Sequence[Any], asked: Node) -> Node:
    # An empty host means: the one you asked. It is bytes from one version and text from another callback.
    host = entry[0].decode() if isinstance(entry[0], bytes) else entry[0]
    return Node(host or asked.host, int(entry[1]))


async def _ask(address: RedisAddress, node: Node, *command: str, **options: Any) -> Any:  # noqa: ANN401 - commands differ
    """Ask one server one thing; None when it does not answer."""
    asked = client(address, node, timeout=ASK_TIMEOUT, connections=1, **options)
    try:
        return await asked.execute_command(*command)
    except (RedisError, OSError) as error:
        log.warning("redis.no_answer", host=node.host, port=node.port, reason=str(error) or type(error).__name__)
        return None
    finally:
        await asked.settle()
