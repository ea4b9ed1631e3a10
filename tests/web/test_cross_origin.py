"""Pages of other origins: what browsers ask before they send, and what the answers allow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from gateway.app import build_app
from gateway.jobs.local import LocalQueue
from gateway.server.run import ServerOptions, serving
from tests.fanout.support import settings_for

APP, EVIL = "https://app.example", "https://evil.example"
HELLO = '{"id":1,"connect":{}}'


@pytest.fixture(params=[None, "session"])
async def http(redis_url: str, redis: Redis, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    del redis  # emptied
    changes: dict[str, Any] = {"amqp_url": "memory://", "allowed_origins": (APP,), "cookie": request.param}
    settings = settings_for(redis_url, **changes)
    app = build_app(settings, queue=LocalQueue())
    async with (
        serving(app, settings, ServerOptions(port=0)) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        client.headers["x-with-cookie"] = str(request.param is not None)
        yield client


@pytest.mark.parametrize("path", ["/connection/http_stream", "/emulation", "/v1/jobs"])
async def test_an_allowed_page_may_post_json(http: httpx.AsyncClient, path: str) -> None:
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    allowed = await http.options(path, headers={"Origin": APP, **asking})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == APP
    assert "content-type" in allowed.headers["access-control-allow-headers"].lower()
    refused = await http.options(path, headers={"Origin": EVIL, **asking})
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("path", ["/connection/http_stream", "/connection/sse", "/v1/stream"])
async def test_what_is_handed_over_may_be_read_by_an_allowed_page(http: httpx.AsyncClient, path: str) -> None:
    if path == "/connection/http_stream":
        kinds = {"Content-Type": "application/json"}
        opening = http.stream("POST", path, content=HELLO, headers={"Origin": APP, **kinds})
    else:
        params = {"cf_connect": HELLO} if path == "/connection/sse" else {"channel": "open:a"}
        opening = http.stream("GET", path, params=params, headers={"Origin": APP})
    async with opening as response:
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == APP
        credentials = response.headers.get("access-control-allow-credentials") == "true"
        assert credentials is (http.headers["x-with-cookie"] == "True")
        assert await anext(response.aiter_lines())
