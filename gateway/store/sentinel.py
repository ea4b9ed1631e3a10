"""A client that follows the master: every new connection asks the Sentinels, and makes sure."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError

from gateway.store.address import Node, RedisAddress
from gateway.store.client import Client, PlainConnection, TlsConnection, client
from gateway.store.places import Sentinels


class _Following:
    """What a connection does differently; mixed into the driver's plain and TLS connections.

    A connection to a former master is not used again: neither after it answered READONLY or NOREPLICAS (its
    replica has been promoted), nor when another connection has learnt of a new one.
    """

    host: str
    port: int

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:  # noqa: ANN401 - the driver's own
        super().__init__(**options)
        self._sentinels = sentinels

    async def _connect(self) -> None:
        self.host, self.port = await self._sentinels.find()
        await super()._connect()  # type: ignore[misc] # the driver's connection comes next

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - the driver's
        """Greet, and insist on a master: a Sentinel may be behind, and a replica answers reads happily."""
        await super().on_connect_check_health(check_health)  # type: ignore[misc] # as above
        await self.send_command("ROLE")  # type: ignore[attr-defined] # as above
        role = await super().read_response()  # type: ignore[misc] # as above
        if role[0] != b"master":
            raise RedisConnectionError(f"{self.host}:{self.port} is not a master")
        self._sentinels.master = Node(self.host, self.port)

    async def can_read(self) -> bool:
        """Whether the connection is not usable as it is: the pool asks before each use, and then makes it anew."""
        if self._sentinels.master != Node(self.host, self.port):
            return True
        return bool(await super().can_read())  # type: ignore[misc] # as above

    async def read_response(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - the driver's own
        """Read an answer; one that a former master gives ends the connection."""
        try:
            return await super().read_response(*arguments, **options)  # type: ignore[misc] # as above
        except ResponseError as error:
            if isinstance(error, ReadOnlyError) or str(error).startswith("NOREPLICAS"):
                await self.disconnect()  # type: ignore[attr-defined] # as above
            raise


class _FollowingConnection(_Following, PlainConnection):
    pass


class _FollowingTlsConnection(_Following, TlsConnection):
    pass


def sentinel_client(address: RedisAddress) -> Client:
    """Return a client of the master of the moment."""
    kind = _FollowingTlsConnection if address.tls else _FollowingConnection
    return client(address, address.nodes[0], connection_class=kind, sentinels=Sentinels(address))
