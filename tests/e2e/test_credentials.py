"""The whole product with other issuers' keys, revocations from the command line, and browsers of other origins."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from httpx_sse import aconnect_sse
from redis.asyncio import Redis
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.auth.signers import KeyServer, Signer, key_server, key_set
from tests.e2e.clients import socket, token
from tests.e2e.stack import Stack, client, stack
from tests.support.waiting import LIMIT, eventually

APP = "https://app.example"
OLD, NEW = Signer("RS256", "old", 11), Signer("EdDSA", "new", 12)


@pytest.fixture
async def issuer() -> AsyncIterator[KeyServer]:
    async with key_server(key_set(OLD)) as served:
        yield served


@pytest.fixture
def product(redis_url: str, amqp_url: str, redis: Redis, tmp_path: Path, issuer: KeyServer) -> Iterator[Stack]:
    del redis  # emptied
    settings = {
        "GATEWAY_JWKS_URL": issuer.url,
        "GATEWAY_TOKEN_ISSUER": "https://login.example",
        "GATEWAY_TOKEN_AUDIENCE": "notifications",
        "GATEWAY_TOKEN_TENANT": "acme",
        "GATEWAY_ALLOWED_ORIGINS": APP,
    }
    with stack(redis_url, amqp_url, tmp_path, **settings) as running:
        yield running


async def gateway(product: Stack) -> str:
    # Its keys come from a server in this loop, which must go on.
    _, url = await asyncio.to_thread(product.gateway)
    return url


def command(product: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(words, env=product.env, capture_output=True, text=True, timeout=30, check=False)


def signed(signer: Signer, **claims: object) -> str:
    return signer.token(iss="https://login.example", aud="notifications", **claims)  # type: ignore[arg-type] # as above


async def test_another_issuers_tokens_are_of_its_tenant_and_keys_rotate(product: Stack, issuer: KeyServer) -> None:
    url = await gateway(product)
    async with socket(url, signed(OLD)) as opened:
        assert "subscribe" in await opened.call(subscribe={"channel": "user:ann"})
    async with client(url, signed(OLD, tenant="default")) as http:
        assert (await http.get("/v1/jobs")).status_code == 401
    async with client(url, token("ann")) as http:  # ours, without iss and aud
        assert (await http.get("/v1/jobs")).status_code == 401
    issuer.body = key_set(NEW)

    async def rotated() -> bool:
        async with client(url, signed(NEW)) as http:
            return (await http.get("/v1/jobs")).status_code == 200

    await eventually(rotated)


async def test_the_command_line_revokes_what_it_made(product: Stack) -> None:
    first, second = await gateway(product), await gateway(product)
    made = await asyncio.to_thread(command, product, "token", "ann")
    credential = made.stdout.strip()
    async with (
        client(first, credential) as http,
        aconnect_sse(http, "GET", "/v1/stream", params={"channel": "user:ann"}) as source,
        socket(second, credential) as opened,
    ):
        events = source.aiter_sse()
        await anext(events)
        revoked = await asyncio.to_thread(command, product, "token", "revoke", "--sub", "ann")
        assert revoked.returncode == 0, revoked.stderr
        assert (await anext(events)).event == "gateway.bye"
        await asyncio.wait_for(opened.connection.wait_closed(), LIMIT)
        assert opened.connection.close_code == 3014
    async with client(second, credential) as http:
        assert (await http.get("/v1/jobs")).json()["type"] == "urn:gateway:problem:token-revoked"
    wrong = await asyncio.to_thread(command, product, "token", "revoke")
    assert (wrong.returncode, "--jti" in wrong.stderr) == (2, True)


async def test_only_listed_origins_may_read_and_connect(product: Stack) -> None:
    url = await gateway(product)
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with httpx.AsyncClient(base_url=url) as http:
        for origin, allowed in ((APP, APP), ("https://evil.example", None), ("null", None)):
            preflight = await http.options("/v1/jobs", headers={"Origin": origin, **asking})
            assert preflight.headers.get("access-control-allow-origin") == allowed
            assert preflight.status_code == (200 if allowed else 400)
            refused = await http.get("/v1/jobs", headers={"Origin": origin})
            assert refused.status_code == 401
            assert refused.headers.get("access-control-allow-origin") == allowed
            assert "access-control-allow-credentials" not in refused.headers
    address = url.replace("http", "ws") + "/connection/websocket"
    async with connect(address, origin=APP):  # type: ignore[arg-type] # its own str type
        pass
    for origin in ("https://evil.example", "null", f"{APP}.evil.example", "http://app.example"):
        with pytest.raises(InvalidStatus) as caught:
            async with connect(address, origin=origin):  # type: ignore[arg-type] # as above
                pass
        assert caught.value.response.status_code == 403


async def test_a_stream_says_which_origin_may_read_it(product: Stack) -> None:
    url = await gateway(product)
    headers = {"Authorization": f"Bearer {signed(OLD)}", "Origin": APP}
    async with (
        httpx.AsyncClient(base_url=url, headers=headers) as http,
        http.stream("GET", "/v1/stream", params={"channel": "user:ann"}) as stream,
    ):
        assert stream.status_code == 200
        assert stream.headers["access-control-allow-origin"] == APP
