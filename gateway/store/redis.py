"""The connection to Redis, and how scripts run on it.

All state changes are Lua scripts: one script, one shard, one atomic step, the server's clock. A script gets
the shard's tag as its only key and one MessagePack map as its only argument (text only: Redis' decoder knows
no binary strings).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib import resources
from typing import Any, Self

import msgspec
import structlog
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.errors import ConfigurationError, GatewayError, StoreUnavailable
from gateway.settings import Settings
from gateway.store.address import RedisAddress
from gateway.store.client import Client, client
from gateway.store.cluster import ClusterClient
from gateway.store.gather import Gatherer, for_many
from gateway.store.sentinel import sentinel_client
from gateway.store.shards import shard_of, tag

log = structlog.get_logger(__name__)

SHARDS = "{keys}:shards"  # how many this Redis was first used with

_encode: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
# Answers of a server that is there and cannot write: no disk, no memory, no replica, not the master. It is away for us.
_UNABLE = ("OOM", "MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "READONLY", "LOADING")
_AWAY = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, ReadOnlyError)
# Of a Cluster: nobody serves the slot, or it is between two nodes.
_ADRIFT = (ClusterDownError, TryAgainError, AskError)


class Script:
    """A Lua script: the preludes and its own file, loaded once."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()  # EVALSHA's own choice

    @classmethod
    def load(cls, package: str, path: str, *, prelude: str = "", many: bool = False) -> Self:
        """Read a script from a package, behind the store's prelude and perhaps a further one.

        With `many` it is for `Store.run_gathered`: its text sees the arguments of one of many calls as `A`.
        """
        own = resources.files(package).joinpath(path).read_text()
        return cls(f"{package}/{path}", f"{_PRELUDE}\n{prelude}\n{for_many(own) if many else own}")


_PRELUDE = resources.files("gateway.store").joinpath("lua/prelude.lua").read_text()


class Store:
    """One Redis, whatever it consists of, seen through scripts.

    Attributes:
        client: for the few plain commands a feature needs, each with a key; wrap them in `guard`.
        shards: how many hash tags the tenants are spread over.
    """

    def __init__(self, client: Client, shards: int) -> None:
        self.client = client
        self.shards = shards
        self._cluster = client if isinstance(client, ClusterClient) else None
        self._agreed = False
        self._gatherers: dict[tuple[str, str], Gatherer] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Self]:
        """Open the connections. They are made when used, so a start does not wait for Redis."""
        client = _client(RedisAddress.parse(settings.redis_url))
        try:
            yield cls(client, settings.shards)
        finally:
            await client.settle()

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
        except (*_AWAY, *_ADRIFT) as error:
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
        if not self._agreed:
            await self._agree()
        async with self.guard():
            return await self._evaluate(script, shard_tag, _encode(arguments))

    async def run_gathered(self, script: Script, shard_tag: str, **arguments: object) -> Any:  # noqa: ANN401 - scripts differ
        """Run a script loaded with `many`, together with others' calls of it that come at the same time.

        Raises:
            StoreUnavailable, GatewayError: as `run`, for this call alone if only it failed.
        """
        if not self._agreed:
            await self._agree()
        gatherer = self._gatherers.get((script.sha, shard_tag))
        if gatherer is None:
            run = partial(self._evaluate, script, shard_tag)
            gatherer = self._gatherers[script.sha, shard_tag] = Gatherer(run, self.client.start)
        async with self.guard():
            return await gatherer.call(_encode(arguments))

    async def _evaluate(self, script: Script, shard_tag: str, packed: bytes) -> Any:  # noqa: ANN401 - scripts differ
        keys = self._keys(shard_tag)
        try:
            return await self.client.evalsha(script.sha, len(keys), *keys, packed)
        except NoScriptError:
            return await self.client.eval(script.source, len(keys), *keys, packed)

    def _keys(self, shard_tag: str) -> tuple[str, ...]:
        # On a Cluster two keys that never exist: while the slot migrates, neither node will run the script
        # (TRYAGAIN). With one, the importing node would, on an empty shard (docs/decisions/0005).
        return (shard_tag, shard_tag + "*") if self._cluster else (shard_tag,)

    async def check(self) -> None:
        """Compare our number of shards with the one this Redis was first used with, and settle it the first time.

        Raises:
            ConfigurationError: they differ and there is data: tenants would not find theirs.
            StoreUnavailable: Redis is away; the first script asks again.
        """
        async with self.guard():
            said = await self.client.set(SHARDS, self.shards, nx=True, get=True)
            known = self.shards if said is None else int(said)
            if known != self.shards:
                await self._insist_on_empty(known)
                await self.client.set(SHARDS, self.shards)
        self._agreed = True

    async def check_at_start(self) -> None:
        """`check`, except that Redis may be away; then the first script does it.

        Raises:
            ConfigurationError: as there.
        """
        try:
            await self.check()
        except StoreUnavailable:
            log.warning("store.away")

    async def _insist_on_empty(self, known: int) -> None:
        for shard in range(known):
            if await self.client.exists(f"{tag(shard)}gen"):
                raise ConfigurationError(
                    f"GATEWAY_SHARDS is {self.shards}, but this Redis holds the data of {known}: "
                    f"set it to {known}, or use an empty Redis"
                )

    async def _agree(self) -> None:
        try:
            await self.check()
        except ConfigurationError as error:
            # Redis was away when the process started: too late to refuse the start, never too late to refuse.
            log.error("store.shards_differ", reason=str(error))  # noqa: TRY400 - the traceback says nothing more
            raise StoreUnavailable from error

    async def servers(self) -> list[Client]:
        """Return a client of each server that holds data, for commands without a key.

        Raises:
            StoreUnavailable: a Cluster does not say who they are.
        """
        if self._cluster is None:
            return [self.client]
        async with self.guard():
            return [self._cluster.at(node) for node in await self._cluster.slots.masters()]

    async def ping(self) -> None:
        """Ask whether Redis answers; of a Cluster, whether anyone does: the tenants of the others can be served.

        Raises:
            StoreUnavailable: it does not.
        """
        if not self._agreed:
            await self._agree()
        away: Exception = StoreUnavailable()
        for server in await self.servers():
            try:
                async with self.guard():
                    await server.ping()
            except StoreUnavailable as error:
                away = error
            else:
                return
        raise away


def _client(address: RedisAddress) -> Client:
    match address.kind:
        case "single":
            return client(address, address.nodes[0])
        case "sentinel":
            return sentinel_client(address)
        case "cluster":
            return ClusterClient(address)
