"""Where outbound requests may go: nowhere that is not the public internet (SSRF guard).

Tenants choose the addresses we connect to, so every address is checked at the moment it is dialled
(`gateway.webhooks.client` does the dialling): a name that resolves to a private address, a numeric host in
an odd spelling and a name that changes between two look-ups (DNS rebinding) all end at the same check.

The table is ours because `ipaddress.is_global` is not safe for this: on Python 3.11 it calls
`::127.0.0.1`, `64:ff9b::a9fe:a9fe`, `2002:7f00:1::`, `fec0::1`, `3fff::1` and multicast global.
Sources: the IANA IPv4 and IPv6 special-purpose address registries (RFC 6890), RFC 4291, RFC 6052.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from yarl import URL

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL_LENGTH = 2048
_ANY_UDP_PORT = 9  # discard (RFC 863); nothing is sent

_REFUSED_V4: tuple[tuple[IPv4Network, str], ...] = tuple(
    (IPv4Network(cidr), reason)
    for cidr, reason in (
        ("0.0.0.0/8", "means this host"),
        ("10.0.0.0/8", "is private"),
        ("100.64.0.0/10", "is shared by carriers"),
        ("127.0.0.0/8", "is loopback"),
        ("168.63.129.16/32", "is a cloud provider's metadata service"),
        ("169.254.0.0/16", "is link-local, where cloud metadata services are"),
        ("172.16.0.0/12", "is private"),
        ("192.0.0.0/24", "is reserved for protocols"),
        ("192.0.2.0/24", "is for documentation"),
        ("192.88.99.0/24", "is a 6to4 relay"),
        ("192.168.0.0/16", "is private"),
        ("198.18.0.0/15", "is for benchmarks"),
        ("198.51.100.0/24", "is for documentation"),
        ("203.0.113.0/24", "is for documentation"),
        ("224.0.0.0/4", "is multicast"),
        ("240.0.0.0/4", "is reserved"),
    )
)
_REFUSED_V6: tuple[tuple[IPv6Network, str], ...] = tuple(
    (IPv6Network(cidr), reason)
    for cidr, reason in (
        ("::1/128", "is loopback"),
        ("::ffff:0:0/96", "is an IPv4 address in disguise"),
        ("64:ff9b::/32", "is translated to an IPv4 address"),
        ("::/8", "is reserved (loopback, mapped, compatible or translated)"),
        ("100::/64", "is for discarding"),
        ("2001::/23", "is reserved for protocols (Teredo, ORCHID)"),
        ("2001:db8::/32", "is for documentation"),
        ("2002::/16", "is 6to4, an IPv4 address in disguise"),
        ("3fff::/20", "is for documentation"),
        ("5f00::/16", "is for segment routing"),
        ("fc00::/7", "is private"),
        ("fe80::/10", "is link-local"),
        ("fec0::/10", "is site-local"),
        ("ff00::/8", "is multicast"),
    )
)
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")  # all that IANA has opened for use (RFC 4291 section 2.4)


class AddressRefused(RuntimeError):
    """The guard does not let a request go there. Trying again will not help.

    A `RuntimeError` because aiohttp wraps every `OSError` of a connect, and its happy-eyeballs code keeps
    only these two kinds: so this one reaches the caller as it is.

    Attributes:
        target: the host or address, never the rest of the URL (which can hold secrets).
        reason: the rule it breaks, to be read after the target ("is private").
    """

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(f"{target} {reason}")
        self.target = target
        self.reason = reason


def networks(cidrs: Iterable[str]) -> tuple[Network, ...]:
    """Parse an allow list such as `Settings.webhook_allow`.

    Raises:
        ValueError: one of them is not a CIDR.
    """
    return tuple(ip_network(cidr) for cidr in cidrs)


def is_own_address(address: Address) -> bool:
    """Say whether this host answers on the address itself.

    Asks the routing table: for an address of ours the kernel picks that same address as the source. No
    packet is sent, and a changed interface is seen at once. An address that NAT maps to this host cannot be
    known from here.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004 - the IP version
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), _ANY_UDP_PORT))
        except OSError:  # no route or no such family: then it is not ours
            return False
        return ip_address(probe.getsockname()[0]) == address


def refusal(
    address: str | Address,
    allow: Sequence[Network] = (),
    *,
    own: Callable[[Address], bool] = is_own_address,
) -> str | None:
    """Say why an address must not be connected to, or None if it may.

    Args:
        address: as it will be dialled. Text must be the canonical form: `127.1` and `0x7f.1` are refused
            because they are not, whatever they mean.
        allow: networks let through although they are not public. A mapped address (`::ffff:10.0.0.1`) is
            not let through by the IPv4 network in it, and a scoped one (`fe80::1%eth0`) never is.
        own: whether an address is the host's own; the default asks the kernel.
    """
    if isinstance(address, str):
        try:
            address = ip_address(address)
        except ValueError:
            return "is not an IP address in its usual form"
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "names a network interface of this host"
    if any(address in network for network in allow):
        return None
    reason = _refused_v4(address) if isinstance(address, IPv4Address) else _refused_v6(address)
    if reason is None and own(address):
        return "is this host's own address"
    return reason


def _refused_v4(address: IPv4Address) -> str | None:
    return next((reason for network, reason in _REFUSED_V4 if address in network), None)


def _refused_v6(address: IPv6Address) -> str | None:
    found = next((reason for network, reason in _REFUSED_V6 if address in network), None)
    if found is None and address not in _GLOBAL_UNICAST_V6:
        return "is not global unicast"
    return found


def literal(host: str) -> Address | None:
    """Read a host that is an address in any spelling `getaddrinfo` takes, or None if it is a name.

    `2130706433`, `0x7f.1`, `0177.0.0.1` and `127.1` all mean 127.0.0.1 (inet_aton(3)).
    """
    host = host.rstrip(".")
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError, ValueError):
        return None


def check_url(url: str, allow: Sequence[Network] = (), *, ports: Collection[int] = ()) -> URL:
    """Check what can be known of a URL before anything is looked up, and return it parsed.

    For registering an endpoint (an early, clear answer) and before every request. It says nothing about
    names: what they resolve to is checked when they are dialled.

    Args:
        url: an absolute http or https URL of at most 2,048 characters, without user and password.
        allow: as in `refusal`.
        ports: the ports that may be used; empty for all.

    Raises:
        AddressRefused: it breaks a rule.
    """
    parsed = _parse(url)
    if parsed.scheme not in ("http", "https"):
        raise AddressRefused("the URL", "must start with http:// or https://")
    host = parsed.raw_host
    if not host:
        raise AddressRefused("the URL", "names no host")
    if "@" in urlsplit(url).netloc:  # yarl forgets the empty user of http://@host/
        raise AddressRefused("the URL", "must not hold a user or password")
    if not parsed.port or (ports and parsed.port not in ports):
        raise AddressRefused(f"port {parsed.port}", "is not allowed")
    address = literal(host)
    reason = refusal(address, allow) if address is not None else None
    if reason is not None:
        raise AddressRefused(host, reason)
    return parsed


def _parse(url: str) -> URL:
    # Parsers disagree on what control characters, spaces and backslashes mean: no URL needs them.
    if len(url) > MAX_URL_LENGTH or any(char <= " " or char in "\x7f\\" for char in url):
        raise AddressRefused(
            "the URL", f"has spaces, backslashes, control characters or over {MAX_URL_LENGTH} characters"
        )
    try:
        # The parser of the client that will dial, so that both see the same host.
        return URL(url)
    except ValueError:
        raise AddressRefused("the URL", "cannot be read") from None
