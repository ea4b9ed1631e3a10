"""Several Redis servers that belong together: a Cluster of three masters; a master with a replica and Sentinels."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from typing import Self

from redis import Redis
from redis.exceptions import RedisError

from tests.support.process import Child, exchange, free_port
from tests.support.servers import START_LIMIT, PrivateServer, RedisServer
from tests.support.waiting import eventually_sync

SLOTS = 16384
MASTER = "ours"


class RedisCluster:
    """Three masters without replicas. A dead one makes only its own slots unavailable."""

    def __init__(self) -> None:
        self.nodes = [
            RedisServer(
                cluster_enabled="yes",
                cluster_node_timeout="2000",
                cluster_require_full_coverage="no",
                cluster_port=str(free_port()),
                cluster_allow_replica_migration="no",
            )
            for _ in range(3)
        ]
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> None:
        """Start all, spread the slots evenly, and wait until every node knows."""
        for number, node in enumerate(self.nodes):
            self._stack.enter_context(node)
            first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
            self.ask(number, "CLUSTER", "ADDSLOTSRANGE", first, last)
            self.ask(number, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number in (1, 2):
            bus = self.nodes[0].options["cluster-port"]
            self.ask(number, "CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, bus)
        self.settle()

    def settle(self) -> None:
        """Wait until every node finds the Cluster whole."""
        for number in range(3):
            eventually_sync(lambda number=number: self._whole(number), START_LIMIT)  # type: ignore[misc]

    def _whole(self, number: int) -> bool:
        try:
            text = self.ask(number, "CLUSTER", "INFO")
            assert isinstance(text, bytes)
            slots = self.ask(number, "CLUSTER", "SLOTS")
            links = self.ask(number, "CLUSTER", "LINKS")
        except RedisError:
            return False
        assert isinstance(slots, list)
        assert isinstance(links, list)
        # Published messages go over the links: to and from both others.
        linked = len(slots) >= 3 and len(links) >= 4
        return b"cluster_state:ok" in text and b"cluster_slots_ok:16384" in text and linked

    def ask(self, number: int, *command: str | int) -> object:
        """Run a command on one node."""
        with Redis(port=self.nodes[number].port) as client:
            return client.execute_command(*command)

    def id_of(self, number: int) -> str:
        """The name a node has in the Cluster."""
        found = self.ask(number, "CLUSTER", "MYID")
        assert isinstance(found, bytes)
        return found.decode()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class Sentinel(PrivateServer):
    """One Sentinel, which writes what it learns into its configuration."""

    def __init__(self, master: int) -> None:
        super().__init__("sentinel")
        (self._folder / "sentinel.conf").write_text(
            f"port {self.port}\n"
            "bind 127.0.0.1\n"
            f"dir {self._folder}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {master} 2\n"
            f"sentinel down-after-milliseconds {MASTER} 700\n"
            f"sentinel failover-timeout {MASTER} 3000\n"
        )

    def start(self) -> None:
        """Start and wait until it answers."""
        command = shutil.which("redis-server")
        assert command
        child = self._child = Child([command, str(self._folder / "sentinel.conf"), "--sentinel"], self._folder)
        child.wait_for(lambda: exchange(self.port, b"PING\r\n", b"+PONG"), START_LIMIT)


class SentinelSetup:
    """A master, a replica and three Sentinels, of which two must agree."""

    def __init__(self) -> None:
        self.servers = [RedisServer(), RedisServer()]
        self._stack = ExitStack()

    def start(self) -> None:
        """Start all, and wait until the Sentinels know each other and the replica."""
        master, replica = self.servers
        for server in self.servers:
            self._stack.enter_context(server)
        with Redis(port=replica.port) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", master.port)
            eventually_sync(lambda: client.info("replication")["master_link_status"] == "up", START_LIMIT)
        self.sentinels = [Sentinel(master.port) for _ in range(3)]
        for sentinel in self.sentinels:
            self._stack.enter_context(sentinel)
        for sentinel in self.sentinels:
            eventually_sync(lambda sentinel=sentinel: self._complete(sentinel), START_LIMIT)  # type: ignore[misc]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/0?master={MASTER}"

    def _complete(self, sentinel: Sentinel) -> bool:
        with Redis(port=sentinel.port) as client:
            state = client.sentinel_master(MASTER)
        known: bool = state["num-slaves"] == 1 and state["num-other-sentinels"] == len(self.sentinels) - 1
        return known and self.master_port(sentinel) in {server.port for server in self.servers}

    def master_port(self, sentinel: Sentinel | None = None) -> int:
        """The port of the master, as a Sentinel sees it."""
        with Redis(port=(sentinel or self.sentinels[0]).port) as client:
            _, port = client.sentinel_get_master_addr_by_name(MASTER)
        return int(port)

    def master(self) -> RedisServer:
        """The server the Sentinels call the master."""
        port = self.master_port()
        return next(server for server in self.servers if server.port == port)

    def fail_over(self) -> None:
        """Have the Sentinels promote the replica although the master is well."""
        with Redis(port=self.sentinels[0].port) as client:
            client.execute_command("SENTINEL", "FAILOVER", MASTER)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
