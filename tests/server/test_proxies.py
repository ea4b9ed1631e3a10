"""Whose `X-Forwarded-*` headers are believed: only those of the configured networks."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.server.run import ServerOptions, serving
from gateway.settings import Settings

HERE = "127.0.0.1"


async def _who(request: Request) -> Response:
    return JSONResponse([request.client.host if request.client else None, request.url.scheme])


async def seen(trusted: Sequence[str], *forwarded: str, proto: str = "https") -> tuple[str, str]:
    """What the application sees of a request from 127.0.0.1 with these headers."""
    app = Starlette(routes=[Route("/", _who)])
    headers = [("X-Forwarded-Proto", proto), *(("X-Forwarded-For", value) for value in forwarded)]
    settings = Settings(trusted_proxies=tuple(trusted))
    async with serving(app, settings, ServerOptions(port=0)) as server, httpx.AsyncClient() as client:
        host, scheme = (await client.get(f"http://{HERE}:{server.port}/", headers=headers)).json()
        return host, scheme


@pytest.mark.parametrize("trusted", [[], ["10.0.0.0/8"], ["127.0.0.2"], ["::/0"]])
async def test_an_untrusted_client_cannot_forge_its_address(trusted: list[str]) -> None:
    assert await seen(trusted, "1.2.3.4") == (HERE, "http")


@pytest.mark.parametrize("trusted", [["127.0.0.0/8"], ["127.0.0.1"], ["127.0.0.1/32", "10.0.0.0/8"]])
async def test_networks_and_addresses_are_trusted(trusted: list[str]) -> None:
    assert await seen(trusted, "1.2.3.4") == ("1.2.3.4", "https")


async def test_what_a_client_put_in_front_is_not_believed() -> None:
    trusted = ["127.0.0.0/8", "10.0.0.0/8"]
    assert await seen(trusted, "6.6.6.6, 1.2.3.4") == ("1.2.3.4", "https")
    assert await seen(trusted, "6.6.6.6", "1.2.3.4") == ("1.2.3.4", "https")
    assert await seen(trusted, "10.6.6.6, 1.2.3.4, 10.0.0.7") == ("1.2.3.4", "https")
    assert await seen(trusted, "127.0.0.1, 1.2.3.4") == ("1.2.3.4", "https")


async def test_an_odd_scheme_is_ignored() -> None:
    assert await seen(["127.0.0.0/8"], "1.2.3.4", proto="gopher") == ("1.2.3.4", "http")
