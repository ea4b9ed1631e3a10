"""The one way out: an HTTP client whose every connection is checked by the address guard.

The guard sits where the connection is made. The resolver refuses a name when any of its addresses is bad;
the socket factory checks the very address that is dialled, which also covers IP literals (aiohttp does not
send those through the resolver).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.webhooks.guard import Address, AddressRefused, Network, check_url, is_own_address, refusal

TOTAL_TIMEOUT = 15.0
CONNECT_TIMEOUT = 5.0
_LOOKUP_THREADS = 16

# (host, port, family) to (family, socket address) pairs; a parameter so that tests can answer for the DNS.
Lookup = Callable[[str, int, int], list[tuple[int, tuple[object, ...]]]]
_AddrInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[object, ...]]


def _getaddrinfo(host: str, port: int, family: int) -> list[tuple[int, tuple[object, ...]]]:
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
    except UnicodeError:  # a label over 63 characters; to callers it is a name that does not resolve
        raise OSError(f"{host} cannot be a host name") from None
    return [(int(info[0]), info[4]) for info in found]


class GuardedResolver(AbstractResolver):
    """Looks names up in threads of its own and refuses a name with any address the guard refuses.

    Its own threads: a dead name server holds a thread for many seconds, and asyncio's default pool has only
    a handful, which everything else shares.
    """

    def __init__(
        self,
        allow: Sequence[Network],
        *,
        own: Callable[[Address], bool] = is_own_address,
        lookup: Lookup = _getaddrinfo,
    ) -> None:
        self._allow = tuple(allow)
        self._own = own
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name, all of them good.

        Raises:
            AddressRefused: one of them is not.
            OSError: the name cannot be looked up (`socket.gaierror`) or has no addresses.
        """
        loop = asyncio.get_running_loop()
        infos = await loop.run_in_executor(self._threads, self._lookup, host, port, int(family))
        if not infos:
            raise OSError(f"{host} has no addresses")
        for _, address in infos:
            reason = _dial_refusal(address, self._allow, self._own)
            if reason is not None:
                raise AddressRefused(host, f"resolves to {address[0]}, which {reason}")
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=socket.AddressFamily(found),
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for found, address in infos
        ]

    async def close(self) -> None:
        """Let go of the threads; a look-up that hangs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def guarded_socket_factory(
    allow: Sequence[Network], *, own: Callable[[Address], bool] = is_own_address
) -> Callable[[_AddrInfo], socket.socket]:
    """Return a `socket_factory` for `TCPConnector` that refuses to make a socket for a bad address."""
    allowed = tuple(allow)

    def make(info: _AddrInfo) -> socket.socket:
        family, kind, proto, _, address = info
        reason = _dial_refusal(address, allowed, own)
        if reason is not None:
            raise AddressRefused(str(address[0]), reason)
        return socket.socket(family, kind, proto)

    return make


def _dial_refusal(address: Sequence[object], allow: Sequence[Network], own: Callable[[Address], bool]) -> str | None:
    # An IPv6 socket address is (host, port, flow, scope).
    if len(address) > 3 and address[3]:  # noqa: PLR2004 - see above
        return "names a network interface of this host"
    return refusal(str(address[0]), allow, own=own)


class GuardedSession:
    """Sends requests through the guard: http and https only, no redirects, cookies, proxy or inflating.

    Several tenants share it, so nothing an answer says is kept.
    """

    def __init__(self, client: aiohttp.ClientSession, allow: Sequence[Network], ports: Collection[int]) -> None:
        self._client = client
        self._allow = tuple(allow)
        self._ports = frozenset(ports)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request and hand out the answer, whatever its status; its body is yet to be read.

        The session's total deadline covers everything from the look-up to the last byte read.

        Raises:
            AddressRefused: the URL or an address it leads to is not allowed; nothing was sent.
            aiohttp.ClientError: no connection, a broken answer.
            TimeoutError: the deadline passed.
        """
        checked = check_url(url, self._allow, ports=self._ports)
        async with self._client.request(method, checked, headers=headers, data=data, allow_redirects=False) as response:
            yield response


@asynccontextmanager
async def guarded_session(
    allow: Sequence[Network] = (),
    *,
    total: float = TOTAL_TIMEOUT,
    connect: float = CONNECT_TIMEOUT,
    limit: int = 100,
    limit_per_host: int = 0,
    ports: Collection[int] = (),
    lookup: Lookup = _getaddrinfo,
) -> AsyncIterator[GuardedSession]:
    """Open a client whose every connection is checked by the guard.

    Args:
        allow: networks let through although they are not public (`guard.networks`).
        total: seconds for one request: look-up, connect, TLS, headers and body.
        connect: seconds for one connection attempt.
        limit: open connections.
        limit_per_host: the same to one host and port; 0 for no limit.
        ports: the ports that may be used; empty for all.
        lookup: instead of `socket.getaddrinfo`.
    """
    resolver = GuardedResolver(allow, lookup=lookup)
    sockets = guarded_socket_factory(allow)
    connector = aiohttp.TCPConnector(
        resolver=resolver, socket_factory=sockets, use_dns_cache=False, limit=limit, limit_per_host=limit_per_host
    )
    try:
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=total, sock_connect=connect),
            headers={"Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
        ) as client:
            yield GuardedSession(client, allow, ports)
    finally:
        await resolver.close()
