"""A client of a Redis Cluster: every command goes to the master of its key's slot.

Not the driver's own (8.1), for reasons found in its source (docs/decisions/0005): it sends ASKING and the command
over two connections, closes every connection in use on CLUSTERDOWN and on each fifth MOVED, gives out connections
that a restarted server has closed, and raises instead of waiting when a pool is used up.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import structlog
from redis.asyncio.client import Pipeline
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.store.address import Node, RedisAddress
from gateway.store.client import Client, client
from gateway.store.places import topology

log = structlog.get_logger(__name__)

REDIRECTS = 5  # for one command; after a failover one is usual, in the middle of a migration two
RELOAD_EVERY = 0.5  # seconds between two readings of the map, whoever asks for it
_KEY_AT = {"EVAL": 3, "EVALSHA": 3}


class SlotMap:
    """Which master serves a slot, as far as we know."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._ranges: dict[range, Node] = {}
        self._patches: dict[int, Node] = {}
        self._reading = asyncio.Lock()
        self._until = 0.0
        self._doubted = True
        self._suspect: Node | None = None

    async def master(self, slot: int) -> Node:
        """Return a slot's master; reads the map when it is doubted.

        Raises:
            ConnectionError: the driver's: no node answers.
            ClusterDownError: nobody serves the slot.
        """
        if self._doubted and not (self._ranges and self._reading.locked()):
            await self._read()  # one waits for it; the others' slots are probably where they were
        if slot in self._patches:
            return self._patches[slot]
        for slots, node in self._ranges.items():
            if slot in slots:
                return node
        raise ClusterDownError(f"no node serves slot {slot}")

    async def masters(self) -> list[Node]:
        """Return all masters that serve slots."""
        await self._read()
        return sorted({*self._ranges.values()})

    def known(self) -> set[Node]:
        """Return the masters we know of without asking; none before the map was read."""
        return {*self._ranges.values(), *self._patches.values()} if self._ranges else set()

    def doubt(self, node: Node) -> None:
        """A node disappointed: read the map again before the next command, but not all the time."""
        self._doubted = True
        self._suspect = node

    def moved(self, slot: int, node: Node) -> None:
        """Believe a redirection."""
        self._patches[slot] = node
        self._doubted = True

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._reading:
            if loop.time() < self._until:
                if not self._ranges:
                    raise RedisConnectionError("no node of the Redis Cluster answers")
                return
            self._until = loop.time() + RELOAD_EVERY
            try:
                known = sorted({*self._ranges.values()}, key=lambda node: node == self._suspect)
                self._ranges = await topology(self._address, known)
            except RedisConnectionError:
                if not self._ranges:
                    raise
                log.warning("cluster.map_unread")
                return  # what we knew may still be right
            self._patches.clear()
            self._doubted = False


class ClusterClient(Client):
    """Routes commands by their first key and follows redirections.

    A command that failed for any other reason is not repeated. While a slot migrates, what cannot be answered
    by one node alone fails with TRYAGAIN.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._clients: dict[Node, Client] = {}
        self.slots = SlotMap(address)
        # The driver wants a pool; ours are those of the nodes.
        super().__init__(connection_pool=self.at(address.nodes[0]).connection_pool)

    def at(self, node: Node) -> Client:
        """Return the client of one node."""
        if node not in self._clients:
            self._forget_who_left()
            self._clients[node] = client(self._address, node)
        return self._clients[node]

    def _forget_who_left(self) -> None:
        known = self.slots.known()
        for node in [node for node in self._clients if known and node not in known]:
            self.start(self._clients.pop(node).settle())

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - the driver's own
        """Run one command where its key lives."""
        slot = slot_of(arguments)
        node = await self.slots.master(slot)
        for _ in range(REDIRECTS):
            try:
                return await self.at(node).execute_command(*arguments, **options)
            except MovedError as error:
                node = _target(error, node)
                self.slots.moved(slot, node)
            except AskError as error:
                return await self._ask(_target(error, node), arguments, options)
            except (RedisConnectionError, RedisTimeoutError, ClusterDownError):
                self.slots.doubt(node)
                raise
        raise TryAgainError("redirected too often")

    async def _ask(self, node: Node, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:  # noqa: ANN401 - as above
        # ASKING holds for the next command on the same connection.
        asked = self.at(node)
        pipe = asked.pipeline(transaction=False)
        pipe.execute_command("ASKING")
        pipe.execute_command(*arguments, **options)
        _, answer = await asked.finish(pipe.execute(raise_on_error=False))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:  # noqa: FBT001, FBT002 - the driver's signature
        """Return a pipeline whose commands all have keys of one slot."""
        return _ClusterPipeline(self, transaction=transaction, shard_hint=shard_hint)

    async def settle(self) -> None:
        """Wait for commands whose callers have gone, and close the connections."""
        while self._clients:
            _, each = self._clients.popitem()
            await each.settle()
        await super().settle()


class _ClusterPipeline(Pipeline):
    """Sent as one to the node of the first command's key. Redirected as one, too: a refused one has done nothing."""

    def __init__(self, cluster: ClusterClient, *, transaction: bool, shard_hint: str | None) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, transaction, shard_hint)
        self._cluster = cluster

    async def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 - the driver's signature
        """Run the commands."""
        stack = list(self.command_stack)
        if not stack:
            return []
        slot = slot_of(cast("tuple[Any, ...]", stack[0][0]))
        for _ in range(REDIRECTS):
            node = await self._cluster.slots.master(slot)
            self.connection_pool = self._cluster.at(node).connection_pool
            self.command_stack = list(stack)
            try:
                return await super().execute(raise_on_error)
            except MovedError as error:
                self._cluster.slots.moved(slot, _target(error, node))
            except (RedisConnectionError, RedisTimeoutError, ClusterDownError):
                self._cluster.slots.doubt(node)
                raise
        raise TryAgainError("redirected too often")


def slot_of(arguments: tuple[Any, ...]) -> int:
    """Return the slot of a command's first key.

    Raises:
        RedisError: the command has no key; ask one of `Store.servers`.
    """
    at = _KEY_AT.get(str(arguments[0]).upper(), 1)
    if len(arguments) <= at:
        raise RedisError(f"{arguments[0]} has no key, so it cannot be sent to a node of a Redis Cluster")
    key = arguments[at]
    return key_slot(key.encode() if isinstance(key, str) else bytes(key))


def _target(error: AskError, asked: Node) -> Node:
    """Where a redirection leads; without a host it is the one that was asked (Redis 7, unknown endpoint)."""
    return Node(error.host or asked.host, error.port)
