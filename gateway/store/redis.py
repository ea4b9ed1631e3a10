"""The connection to Redis, and how scripts run on it.

All state changes are Lua scripts: one script, one shard, one atomic step, the server's clock. A script gets
the shard's tag as its only key and one MessagePack map as its only argument (text only: Redis' decoder knows
no binary strings).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, Self

import msgspec
import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from gateway.errors import GatewayError, StoreUnavailable
from gateway.settings import Settings
from gateway.store.shards import shard_of, tag

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 64
COMMAND_TIMEOUT = 5.0
CONNECT_TIMEOUT = 2.0

_encode: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
# Answers of a server that is there and cannot write: no disk, no memory, no replica, not the master. It is away for us.
_UNABLE = ("OOM", "MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "READONLY", "LOADING")
_AWAY = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, ReadOnlyError)


class Script:
    """A Lua script: the preludes and its own file, loaded once."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()  # EVALSHA's own choice

    @classmethod
    def load(cls, package: str, path: str, *, prelude: str = "") -> Self:
        """Read a script from a package, behind the store's prelude and perhaps a further one."""
        own = resources.files(package).joinpath(path).read_text()
        return cls(f"{package}/{path}", f"{_PRELUDE}\n{prelude}\n{own}")


_PRELUDE = resources.files("gateway.store").joinpath("lua/prelude.lua").read_text()


class _Client(Redis):
    """A client whose commands finish although their caller is cancelled.

    The driver (8.1) can lose a cancellation that meets an arriving answer, and leaves the next user of the
    connection an error: a caller that gives up must not touch the connection.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - the driver's own
        super().__init__(*arguments, **options)
        self._running: set[asyncio.Task[Any]] = set()

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - the driver's own
        """Run one command to its end."""
        task = asyncio.get_running_loop().create_task(super().execute_command(*arguments, **options))  # type: ignore[no-untyped-call] # the driver's
        self._running.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also when nobody waits any more

    async def settle(self) -> None:
        """Wait for commands whose callers have gone."""
        if self._running:
            await asyncio.wait(self._running)


class Store:
    """One Redis, seen through scripts.

    Attributes:
        client: for the few plain commands a feature needs; wrap them in `guard`.
        shards: how many hash tags the tenants are spread over.
    """

    def __init__(self, client: Redis, shards: int) -> None:
        self.client = client
        self.shards = shards

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Self]:
        """Open a pool. It connects when used, so a start does not wait for Redis."""
        pool = BlockingConnectionPool.from_url(
            settings.redis_url,
            max_connections=MAX_CONNECTIONS,
            timeout=COMMAND_TIMEOUT,
            socket_timeout=COMMAND_TIMEOUT,
            socket_connect_timeout=CONNECT_TIMEOUT,
            socket_keepalive=True,
            # Off: with it the driver does not notice that an idle connection was closed, and its next user fails.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            # A repeated command is a decision: only the caller knows whether the script may run twice.
            retry=Retry(NoBackoff(), 0),
        )
        client = _Client(connection_pool=pool)
        try:
            yield cls(client, settings.shards)
        finally:
            await client.settle()
            await client.aclose(close_connection_pool=True)

    def tag(self, tenant: str) -> str:
        """Return the tag of the shard a tenant lives on."""
        return tag(shard_of(tenant, self.shards))

    def tags(self) -> list[str]:
        """Return the tags of all shards."""
        return [tag(shard) for shard in range(self.shards)]

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Turn the driver's errors into ours.

        Raises:
            StoreUnavailable: Redis is away, loading, a replica, or cannot write.
            GatewayError: Redis refused the command; the reason is logged.
        """
        try:
            yield
        except _AWAY as error:
            raise StoreUnavailable from error
        except OutOfMemoryError as error:
            log.error("store.out_of_memory")  # noqa: TRY400 - the traceback says nothing more
            raise StoreUnavailable from error
        except RedisError as error:
            if str(error).startswith(_UNABLE):
                log.error("store.unable", reason=str(error)[:200])  # noqa: TRY400 - as above
                raise StoreUnavailable from error
            log.exception("store.error")
            raise GatewayError from error

    async def run(self, script: Script, shard_tag: str, **arguments: object) -> Any:  # noqa: ANN401 - scripts differ
        """Run a script on one shard; the arguments arrive as one map.

        Raises:
            StoreUnavailable: Redis is away; whether the script ran is not known.
            GatewayError: the script failed.
        """
        packed = _encode(arguments)
        async with self.guard():
            try:
                return await self.client.evalsha(script.sha, 1, shard_tag, packed)
            except NoScriptError:
                return await self.client.eval(script.source, 1, shard_tag, packed)

    async def say(self, channel: bytes, payload: bytes) -> int:
        """Publish to a pub/sub channel; returns how many subscribers got it. Raises StoreUnavailable."""
        async with self.guard():
            return int(await self.client.publish(channel, payload))

    async def ping(self) -> None:
        """Ask whether Redis answers; raises StoreUnavailable when not."""
        async with self.guard():
            await self.client.ping()
