"""The request rate as a caller of the whole application meets it."""

from __future__ import annotations

import json

import httpx
import pytest
from redis.asyncio import Redis

from gateway.app import build_app
from gateway.jobs.local import LocalQueue
from gateway.server.run import ServerOptions, serving
from tests.fanout.support import ROOT_KEY, settings_for, sse, token


@pytest.mark.parametrize("burst", [2])
async def test_a_tenant_over_its_rate_is_told_when_to_come_back(redis_url: str, redis: Redis, burst: int) -> None:
    del redis  # emptied
    settings = settings_for(redis_url, amqp_url="memory://", rate_limit=0.2, rate_burst=burst)
    app = build_app(settings, queue=LocalQueue())
    async with serving(app, settings, ServerOptions(port=0)) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {ROOT_KEY}"}) as http:
            assert [(await http.get("/v1/jobs")).status_code for _ in range(burst)] == [200] * burst
            refused = await http.get("/v1/jobs")
            assert refused.status_code == 429
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.json()["type"] == "urn:gateway:problem:rate-limited"
            assert 1 <= int(refused.headers["retry-after"]) <= 5
            assert (await http.get("/healthz")).status_code == 200
        async with sse(server.port, f"channel=open:a&token={token()}") as reader:
            assert reader.status == 200
            bye = await reader.event()
            assert (bye["event"], json.loads(bye["data"])) == ("gateway.bye", {"reason": "rate"})
            assert int(bye["retry"]) >= 1000
        async with sse(server.port, f"channel=open:a&token={token(tenant='other')}") as other:
            assert (await other.block())["event"] == "gateway.open"
