"""Clients of one Redis server each: what every connection of the store is made with."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from gateway.store.address import Node, RedisAddress

MAX_CONNECTIONS = 64
COMMAND_TIMEOUT = 5.0
CONNECT_TIMEOUT = 2.0


class _Prompt:
    """Writes a command at once when nothing waits to be written; mixed into the driver's connections.

    The driver bounds every write with `asyncio.wait_for`, which up to Python 3.11 starts a task: as much as all else a
    command costs. What is written here is bounded by waiting for its answer. Behind unsent bytes the driver does it.
    """

    _writer: asyncio.StreamWriter | None

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: ANN401, FBT001, FBT002 - the driver's signature
        """Send a command that is packed already."""
        transport = self._writer.transport if self._writer is not None else None
        if isinstance(command, list) and transport is not None and _takes(transport):
            transport.writelines(command)
        else:
            await super().send_packed_command(command, check_health)  # type: ignore[misc] # the driver's comes next


def _takes(transport: asyncio.WriteTransport) -> bool:
    return not transport.is_closing() and transport.get_write_buffer_size() == 0


class PlainConnection(_Prompt, Connection):
    """A connection over TCP."""


class TlsConnection(_Prompt, SSLConnection):
    """A connection over TLS."""


class Client(Redis):
    """A client whose commands finish although their caller is cancelled.

    The driver (8.1) can lose a cancellation that meets an arriving answer, and leaves the next user of the
    connection an error: a caller that gives up must not touch the connection.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - the driver's own
        super().__init__(*arguments, **options)
        self._running: set[asyncio.Task[Any]] = set()

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - the driver's own
        """Run one command to its end."""
        if asyncio.current_task() in self._running:
            # A task of ours, which nobody cancels: what runs gathered scripts need not pay for a second one.
            return await super().execute_command(*arguments, **options)  # type: ignore[no-untyped-call] # the driver's
        return await self.finish(super().execute_command(*arguments, **options))  # type: ignore[no-untyped-call] # the driver's

    async def finish(self, work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - what a command answers
        """Run something that uses the connections to its end."""
        return await asyncio.shield(self.start(work))

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start something that uses the connections; `settle` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also when nobody waits any more

    async def settle(self) -> None:
        """Wait for commands whose callers have gone, and close the connections."""
        if self._running:
            await asyncio.wait(self._running)
        await self.aclose(close_connection_pool=True)


def client(
    address: RedisAddress,
    node: Node,
    *,
    timeout: float = COMMAND_TIMEOUT,
    connections: int = MAX_CONNECTIONS,
    **options: Any,  # noqa: ANN401 - the driver's own
) -> Client:
    """Return a client of one server. It connects when used; `timeout` (seconds) is each command's.

    `options` win over what the address says.
    """
    chosen: dict[str, Any] = {
        "connection_class": TlsConnection if address.tls else PlainConnection,
        "host": node.host,
        "port": node.port,
        "username": address.username,
        "password": address.password,
        "db": address.database,
        **({"ssl_ca_certs": address.authority} if address.tls else {}),
        **options,
    }
    pool = BlockingConnectionPool(
        max_connections=connections,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=min(timeout, CONNECT_TIMEOUT),
        socket_keepalive=True,
        # Off: with it the driver does not notice that an idle connection was closed, and its next user fails.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        # A repeated command is a decision: only the caller knows whether the script may run twice.
        retry=Retry(NoBackoff(), 0),
        **chosen,
    )
    return Client(connection_pool=pool)
