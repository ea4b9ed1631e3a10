"""The guarded client: whatever spelling, whatever the DNS says, nothing that is refused is ever dialled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest

from gateway.webhooks.client import GuardedSession, guarded_session, guarded_socket_factory
from gateway.webhooks.guard import AddressRefused, networks

# Hosts that mean 127.0.0.1 or ::1 to some resolver or other.
LOOPBACK_HOSTS = """
    127.0.0.1 127.0.0.2 127.1 127.0.1 2130706433 0x7f000001 0x7f.1 0x7F.0x0.0x0.0x1 0177.0.0.1
    017700000001 0177.0.0.01 127.0.0.1. 0 0.0.0.0 00.0 127.0.0.1 127。0。0。1 ①②⑦.0.0.1 [::1]
    [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [::] [::1%25lo] localhost
    LOCALHOST ⓛocalhost
""".split()  # noqa: SIM905 - a table reads better than forty lines


@dataclass
class Listener:
    port: int = 0
    accepted: int = 0
    requests: list[bytes] = field(default_factory=list)
    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=b\r\n\r\nok"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    """Counts connections on one port of every loopback address, IPv4 and IPv6."""
    found = Listener()
    server = await asyncio.start_server(found.serve, "0.0.0.0", 0)  # noqa: S104 - all of 127.0.0.0/8
    found.port = server.sockets[0].getsockname()[1]
    servers = [server]
    if socket.has_ipv6:
        servers.append(await asyncio.start_server(found.serve, "::1", found.port))
    yield found
    for each in servers:
        each.close()
        await each.wait_closed()


@asynccontextmanager
async def answering(*answers: list[str], allow: tuple[str, ...] = ()) -> AsyncIterator[GuardedSession]:
    """Open a session whose DNS gives these answers, one list per look-up."""
    left = list(answers)

    def lookup(_host: str, port: int, _family: int) -> list[tuple[int, tuple[object, ...]]]:
        return [(socket.AF_INET6, (a, port, 0, 0)) if ":" in a else (socket.AF_INET, (a, port)) for a in left.pop(0)]

    async with guarded_session(networks(allow), total=5, connect=0.5, lookup=lookup) as session:
        yield session


async def get(session: GuardedSession, url: str) -> bytes:
    async with session.request("GET", url) as response:
        return await response.read()


@pytest.mark.parametrize("host", LOOPBACK_HOSTS)
async def test_no_spelling_of_loopback_is_dialled(listener: Listener, host: str) -> None:
    async with guarded_session(total=5) as session:
        with pytest.raises(AddressRefused):
            await get(session, f"http://{host}:{listener.port}/")
    assert listener.accepted == 0


@pytest.mark.parametrize("host", LOOPBACK_HOSTS)
async def test_the_connector_alone_stops_every_spelling(listener: Listener, host: str) -> None:
    # Past the URL check, as a redirect or a bug would be: only the dialled address protects here.
    async with guarded_session(total=5) as session:
        with pytest.raises((AddressRefused, aiohttp.InvalidURL)):
            await session._client.get(f"http://{host}:{listener.port}/")
    assert listener.accepted == 0


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"],
        ["::1"],
        ["93.184.216.34", "127.0.0.1"],
        ["127.0.0.1", "93.184.216.34"],
        ["2606:4700:4700::1111", "::ffff:127.0.0.1"],
        ["169.254.169.254"],
    ],
)
async def test_one_bad_answer_refuses_the_name(listener: Listener, answer: list[str]) -> None:
    async with answering(answer) as session:
        with pytest.raises(AddressRefused, match=r"rebind\.example resolves to"):
            await get(session, f"http://rebind.example:{listener.port}/")
    assert listener.accepted == 0


async def test_a_name_that_changes_between_requests_is_caught(listener: Listener) -> None:
    async with answering(["127.0.0.1"], ["10.0.0.1"], allow=("127.0.0.0/8",)) as session:
        url = f"http://rebind.example:{listener.port}/"
        assert await get(session, url) == b"ok"
        with pytest.raises(AddressRefused, match=r"10\.0\.0\.1, which is private"):
            await get(session, url)
    assert listener.accepted == 1


async def test_a_name_without_addresses_or_that_cannot_be_one_is_a_client_error() -> None:
    async with answering([]) as session:
        with pytest.raises(aiohttp.ClientConnectorDNSError):
            await get(session, "http://nowhere.example/")
    async with guarded_session(total=5) as session:
        with pytest.raises(aiohttp.ClientError):
            await get(session, f"http://{'a' * 64}.example/")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "[::1]", "0x7f.1"])
async def test_allowed_loopback_is_reached(listener: Listener, host: str) -> None:
    async with guarded_session(networks(["127.0.0.0/8", "::1/128"]), total=5) as session:
        assert await get(session, f"http://{host}:{listener.port}/") == b"ok"
    assert listener.accepted == 1


async def test_the_allow_list_is_no_wider_than_it_says(listener: Listener) -> None:
    async with guarded_session(networks(["127.0.0.0/30"]), total=5) as session:
        for host in ("127.0.0.4", "[::1]", "[::ffff:127.0.0.1]"):
            with pytest.raises(AddressRefused):
                await get(session, f"http://{host}:{listener.port}/")
    assert listener.accepted == 0


def test_the_socket_factory_reads_the_socket_address() -> None:
    make = guarded_socket_factory(networks(["127.0.0.1/32"]))
    for family, address in (
        (socket.AF_INET, ("10.0.0.1", 80)),
        (socket.AF_INET, ("localhost", 80)),
        (socket.AF_INET6, ("2606:4700:4700::1111", 80, 0, 2)),
        (socket.AF_UNIX, ("/run/docker.sock",)),
    ):
        with pytest.raises(AddressRefused):
            make((family, socket.SOCK_STREAM, 0, "", address))
    with make((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80))) as made:
        assert made.family == socket.AF_INET


# --- the client's other manners ---


async def test_redirects_proxies_cookies_and_inflating_are_off(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    listener.answer = (
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nSet-Cookie: a=b\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 8\r\n\r\nnot-gzip"
    )
    async with guarded_session(networks(["127.0.0.0/8"]), total=5) as session:
        for _ in range(2):
            async with session.request("GET", f"http://127.0.0.1:{listener.port}/") as response:
                assert response.status == 302
                assert await response.read() == b"not-gzip"
    assert listener.accepted == 2
    for request in listener.requests:
        assert b"Accept-Encoding: identity" in request
        assert b"Cookie" not in request


async def test_the_deadline_covers_the_look_up() -> None:
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def lookup(_host: str, _port: int, _family: int) -> list[tuple[int, tuple[object, ...]]]:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        return []

    async with guarded_session(total=0.1, lookup=lookup) as session:
        with pytest.raises(TimeoutError):
            await get(session, "http://slow.example/")
        release.set()
