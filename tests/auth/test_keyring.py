"""An issuer's keys over a real HTTP server: rotated, withdrawn, flooded, away, hostile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway import app
from gateway.app import fetch_public_keys
from gateway.auth.issuers import issuers_from
from gateway.auth.jwks import Header
from gateway.auth.keyring import MAX_DOCUMENT, Keyring
from gateway.errors import KeysUnavailable, Unauthenticated
from gateway.settings import load
from tests.auth.signers import KeyServer, Signer, key_server, key_set
from tests.support.waiting import eventually

OLD, NEW = Signer(kid="old", number=1), Signer(kid="new", number=2)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def running(keyring: Keyring) -> AsyncIterator[Keyring]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(keyring.run())
        yield keyring
        task.cancel()


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    async with key_server(key_set(OLD)) as served:
        yield served


def ring(server: KeyServer, clock: Clock, refresh: float = 300) -> Keyring:
    return Keyring("test", lambda: fetch_public_keys(server.url), refresh=refresh, clock=clock)


async def kids(keyring: Keyring, kid: str) -> list[str | None]:
    return [key.kid for key in await keyring.find(Header("ES256", kid))]


async def test_keys_are_fetched_once_for_everybody(server: KeyServer) -> None:
    server.delay = 0.1
    async with running(ring(server, Clock())) as keyring:
        assert await asyncio.gather(*(kids(keyring, "old") for _ in range(50))) == [["old"]] * 50
    assert server.requests == 1


async def test_a_rotated_key_is_fetched_when_a_token_names_it(server: KeyServer) -> None:
    clock = Clock()
    async with running(ring(server, clock)) as keyring:
        assert await kids(keyring, "old") == ["old"]
        server.body = key_set(NEW, OLD)
        clock.now += 10
        assert await kids(keyring, "new") == ["new"]
        assert await kids(keyring, "old") == ["old"]
    assert server.requests == 2


async def test_a_flood_of_invented_ids_does_not_reach_the_server(server: KeyServer) -> None:
    clock = Clock()
    async with running(ring(server, clock)) as keyring:
        assert await kids(keyring, "old") == ["old"]
        for second in range(4):
            clock.now = 1010.0 + 5 * second
            for n in range(100):
                with pytest.raises(Unauthenticated):
                    await kids(keyring, f"invented-{second}-{n}")
            assert await kids(keyring, "old") == ["old"]
    assert server.requests == 5


async def test_ids_invented_while_a_fetch_runs_cause_no_other(server: KeyServer) -> None:
    clock = Clock()
    server.delay = 0.2
    async with running(ring(server, clock)) as keyring:
        assert await kids(keyring, "old") == ["old"]
        clock.now += 10

        async def refused(kid: str) -> None:
            with pytest.raises(Unauthenticated):
                await kids(keyring, kid)

        async with asyncio.TaskGroup() as group:
            group.create_task(refused("first"))
            await eventually(lambda: keyring._fetching)
            for number in range(50):
                group.create_task(refused(f"invented-{number}"))
        await refused("late")
        assert keyring.fetches == 2


async def test_a_withdrawn_key_ends_with_the_next_refresh(server: KeyServer) -> None:
    async with running(ring(server, Clock(), refresh=0.05)) as keyring:
        assert await kids(keyring, "old") == ["old"]
        server.body = key_set(NEW)

        async def refused() -> bool:
            try:
                await kids(keyring, "old")
            except Unauthenticated:
                return True
            return False

        await eventually(refused)
        server.body = b'{"keys":[]}'
        await eventually(lambda: not keyring._keys)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("500 Internal Server Error", b""),
        ("404 Not Found", key_set(NEW)),
        ("302 Found", key_set(NEW)),
        ("200 OK", b"<html>"),
        ("200 OK", b'{"keys":[' + b" " * MAX_DOCUMENT + b"]}"),
    ],
)
async def test_a_bad_answer_changes_nothing(server: KeyServer, status: str, body: bytes) -> None:
    clock = Clock()
    async with running(ring(server, clock)) as keyring:
        assert await kids(keyring, "old") == ["old"]
        server.status, server.body = status, body
        clock.now += 10
        with pytest.raises(Unauthenticated):
            await kids(keyring, "new")
        assert keyring.fetches == 2
        assert await kids(keyring, "old") == ["old"]


async def test_a_slow_server_is_not_waited_for(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "KEYS_TIMEOUT", 0.1)
    server.delay = 30
    async with running(ring(server, Clock())) as keyring:
        with pytest.raises(KeysUnavailable):
            await kids(keyring, "old")


async def test_keys_outlive_their_server_for_a_day(server: KeyServer) -> None:
    clock = Clock()
    async with running(ring(server, clock)) as keyring:
        assert await kids(keyring, "old") == ["old"]
        server.status = "503 Service Unavailable"
        clock.now += 86_400
        assert await kids(keyring, "old") == ["old"]
        clock.now += 1
        with pytest.raises(KeysUnavailable):
            await kids(keyring, "old")
        server.status = "200 OK"
        clock.now += 10
        assert await kids(keyring, "old") == ["old"]


async def test_a_server_that_was_never_there_is_503_not_401() -> None:
    settings = load({"GATEWAY_JWKS_URL": "http://127.0.0.1:1/keys", "GATEWAY_TOKEN_AUDIENCE": "us"})
    (issuer,) = issuers_from(settings, fetch_public_keys).issuers
    async with running(issuer.keyring) as keyring:
        with pytest.raises(KeysUnavailable):
            await kids(keyring, "old")


async def test_keys_from_a_file_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(OLD))
    (issuer,) = issuers_from(load({"GATEWAY_JWKS_FILE": str(path)}), fetch_public_keys).issuers
    async with running(issuer.keyring) as keyring:
        assert await kids(keyring, "old") == ["old"]
        path.write_bytes(b" " * (MAX_DOCUMENT + 1))
        assert not await keyring._renew()
        path.write_bytes(key_set(NEW))
        assert await keyring._renew()
        assert await kids(keyring, "new") == ["new"]


@pytest.mark.parametrize("algorithm", ["", "none", "HS256", "RS512", "PS256", "es256"])
async def test_only_three_algorithms_are_looked_at(server: KeyServer, algorithm: str) -> None:
    keyring = ring(server, Clock())
    with pytest.raises(Unauthenticated, match="algorithm"):
        await keyring.find(Header(algorithm, "old"))
