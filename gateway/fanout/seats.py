"""How many connections this process holds: in all, per tenant, per client address. Pure."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Self

from gateway.errors import TooManyConnections
from gateway.settings import Settings

_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d+)?\Z|([^:]+):\d+\Z")  # as some proxies write addresses
_PREFIX = 64  # bits of an IPv6 address that are one customer's: RFC 6177 gives nobody less


@lru_cache(1024)  # reading an address is the most expensive step here, and most come from a few proxies or networks
def address_of(host: str | None) -> str:
    """Return what connections from a host are counted under, or "" for one that is not counted.

    An IPv6 address counts as its /64. Not counted: loopback and what is no address at all (a Unix socket), which is
    a proxy on this machine that was not named as one to be believed.
    """
    written = _WITH_PORT.match(host or "")
    try:
        address = ipaddress.ip_address(written[1] or written[2] if written else host or "")
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            whole = (int(address) >> _PREFIX) << _PREFIX
            return "" if address.is_loopback else str(ipaddress.IPv6Address(whole))
        address = address.ipv4_mapped
    return "" if address.is_loopback else str(address)


class Seat:
    """One connection's place among all: `with` it until a connection keeps it, and leaves it at its end.

    Attributes:
        kept: a connection has it.
    """

    __slots__ = ("_address", "_seats", "_tenant", "kept")

    def __init__(self, seats: Seats, address: str) -> None:
        self._seats: Seats | None = seats
        self._address, self._tenant = address, ""
        self.kept = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.kept:
            self.leave()

    def join(self, tenant: str) -> None:
        """Count for a tenant as well, once it is known.

        Raises:
            TooManyConnections: the tenant has as many connections here as it may have.
        """
        if self._seats is None or tenant == self._tenant:
            return
        if not _up(self._seats.tenants, tenant, self._seats.per_tenant):
            raise TooManyConnections("This tenant has too many connections here")
        _down(self._seats.tenants, self._tenant)
        self._tenant = tenant

    def leave(self) -> None:
        """The connection has ended; saying so again changes nothing."""
        seats, self._seats = self._seats, None
        if seats is not None:
            seats.total -= 1
            _down(seats.addresses, self._address)
            _down(seats.tenants, self._tenant)


class Seats:
    """Counts. The maps hold what has a connection right now, so they are never larger than `total`.

    Attributes:
        total: connections.
        tenants: connections by tenant.
        addresses: connections by `address_of`.
        most: connections in all; 0 for no bound, as with the others.
        per_tenant: of one tenant.
        per_address: from one address.
    """

    def __init__(self, most: int, per_tenant: int, per_address: int) -> None:
        self.most, self.per_tenant, self.per_address = most, per_tenant, per_address
        self.total = 0
        self.tenants: dict[str, int] = {}
        self.addresses: dict[str, int] = {}

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Take the bounds from the settings."""
        return cls(settings.max_connections, settings.max_connections_per_tenant, settings.max_connections_per_address)

    def seat(self, host: str | None, tenant: str = "") -> Seat:
        """Let a connection in.

        Args:
            host: the client's, as the trusted proxies tell it.
            tenant: whose it is, when that is known already.

        Raises:
            TooManyConnections: this process, the address or the tenant has as many connections as it may have.
        """
        if self.most and self.total >= self.most:
            raise TooManyConnections("This server has too many connections")
        address = address_of(host)
        if not _up(self.addresses, address, self.per_address):
            raise TooManyConnections("There are too many connections from this address")
        self.total += 1
        seat = Seat(self, address)
        try:
            seat.join(tenant)
        except TooManyConnections:
            seat.leave()
            raise
        return seat


def _up(counts: dict[str, int], name: str, most: int) -> bool:
    if name:
        count = counts.get(name, 0)
        if most and count >= most:
            return False
        counts[name] = count + 1
    return True


def _down(counts: dict[str, int], name: str) -> None:
    if name:
        count = counts[name] - 1
        if count:
            counts[name] = count
        else:
            del counts[name]
