"""Where Redis is, read from one URL: a server, a master watched by Sentinels, or a Cluster. Pure.

    redis://user:password@host:6379/0
    redis+sentinel://user:password@host1:26379,host2:26379/0?master=mymaster&sentinel_password=…
    redis+cluster://user:password@host1:7000,host2:7001

`rediss`, `rediss+sentinel` and `rediss+cluster` are the same over TLS; `ssl_ca_certs=FILE` names the authority.
Names, passwords and values are percent-encoded where they hold characters with a meaning (RFC 3986 section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from gateway.errors import ConfigurationError

Kind = Literal["single", "sentinel", "cluster"]

_KINDS: dict[str, Kind] = {"": "single", "sentinel": "sentinel", "cluster": "cluster"}
_PORTS: dict[Kind, int] = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_PARAMETERS: dict[Kind, frozenset[str]] = {
    "single": frozenset({"ssl_ca_certs"}),
    "sentinel": frozenset({"ssl_ca_certs", "master", "sentinel_username", "sentinel_password"}),
    "cluster": frozenset({"ssl_ca_certs"}),
}
_SETTING = "GATEWAY_REDIS_URL"
_MAX_PORT = 65535


class Node(NamedTuple):
    """A server's address."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """What the URL says.

    Attributes:
        kind: what the nodes are: the server itself, Sentinels, or some nodes of a Cluster.
        nodes: at least one.
        tls: speak TLS to all of them.
        username: of the servers, or None for the default user.
        password: of the servers, or None.
        database: 0 on a Cluster.
        master: the name the Sentinels know the master by.
        sentinel_username: of the Sentinels, when they ask for one.
        sentinel_password: of the Sentinels, when they ask for one.
        authority: PEM file with the certificate authority, or None for the system's.
    """

    kind: Kind
    nodes: tuple[Node, ...]
    tls: bool = False
    username: str | None = None
    password: str | None = None
    database: int = 0
    master: str = ""
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    authority: str | None = None

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Read a URL.

        Raises:
            ConfigurationError: it is malformed; the sentence names the setting and never the password.
        """
        tls, kind = _scheme(url)
        parts = urlsplit(url)
        names = [part.partition("=")[0] for part in parts.query.split("&")]
        if any("@" in text for text in (parts.path, parts.fragment, *names)):
            # What is said below about the host, the path or a parameter would then hold a piece of the password.
            raise ConfigurationError(f"{_SETTING}: write / ? # in a password as %2F %3F %23")
        credentials, _, hosts = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        parameters = _parameters(kind, parts.query, tls=tls)
        return cls(
            kind=kind,
            nodes=_nodes(hosts, kind),
            tls=tls,
            username=unquote(username) or None,
            password=unquote(password) or None,
            database=_database(parts.path.strip("/"), kind),
            master=parameters.get("master", ""),
            sentinel_username=parameters.get("sentinel_username"),
            sentinel_password=parameters.get("sentinel_password"),
            authority=parameters.get("ssl_ca_certs"),
        )


def _scheme(url: str) -> tuple[bool, Kind]:
    protocol, _, kind = url.partition("://")[0].partition("+")
    if protocol not in ("redis", "rediss") or kind not in _KINDS or "://" not in url:
        expected = "redis://, rediss://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"
        raise ConfigurationError(f"{_SETTING} must start with {expected}")
    return protocol == "rediss", _KINDS[kind]


def _nodes(hosts: str, kind: Kind) -> tuple[Node, ...]:
    nodes = tuple(_node(text, kind) for text in hosts.split(","))
    if kind == "single" and len(nodes) > 1:
        raise ConfigurationError(
            f"{_SETTING}: redis:// takes one host; several are redis+sentinel:// or redis+cluster://"
        )
    return nodes


def _node(text: str, kind: Kind) -> Node:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):  # an IPv6 address without a port ends with its bracket
        host, port = text, str(_PORTS[kind])
    host = host.removeprefix("[").removesuffix("]")
    if not host and kind == "single":
        host = "127.0.0.1"  # as `redis://:6379` has always meant
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) <= _MAX_PORT:
        raise ConfigurationError(f"{_SETTING}: {text!r} is not a host:port")
    return Node(host, int(port))


def _database(text: str, kind: Kind) -> int:
    if text and not (text.isascii() and text.isdecimal()):
        raise ConfigurationError(f"{_SETTING}: the path is the number of a database, not {text!r}")
    if kind == "cluster" and int(text or 0) != 0:
        raise ConfigurationError(f"{_SETTING}: a Redis Cluster has only database 0")
    return int(text or 0)


def _parameters(kind: Kind, query: str, *, tls: bool) -> dict[str, str]:
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(parameters.keys() - _PARAMETERS[kind])
    if unknown:
        raise ConfigurationError(f"{_SETTING}: unknown parameter {unknown[0]!r}")
    if kind == "sentinel" and not parameters.get("master"):
        raise ConfigurationError(f"{_SETTING}: redis+sentinel:// needs ?master=NAME, the name the Sentinels know it by")
    if "ssl_ca_certs" in parameters and not tls:
        raise ConfigurationError(f"{_SETTING}: ssl_ca_certs needs rediss://")
    return parameters
