"""Poison, from the outside: real processes that really die of it, and what an operator then sees and does."""

from __future__ import annotations

import asyncio
from typing import Any

import aio_pika
import pytest
from redis.asyncio import Redis

from tests.e2e.stack import Stack, client, stack
from tests.support.brokers import plain
from tests.support.waiting import eventually

DEADLY = "tests.e2e.deadly_tasks"


async def letters(http: Any, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await http.get(f"/v1/dead-letters{query}")).json()["items"]
    return found


@pytest.mark.faults
async def test_a_job_that_kills_three_workers_is_a_dead_letter_and_kills_no_fourth(product: Stack) -> None:
    product.extra["GATEWAY_LEASE"] = "1"
    _, url = await asyncio.to_thread(product.gateway)
    worker = await asyncio.to_thread(product.worker, module=DEADLY)
    async with client(url) as http:
        job = (await http.post("/v1/jobs", json={"type": "deadly"})).json()
        for _ in range(3):
            assert await asyncio.to_thread(worker.ended) == -9
            worker = await asyncio.to_thread(product.worker, module=DEADLY)

        async def buried() -> list[dict[str, Any]]:
            return await letters(http, "?reason=crashed")

        (letter,) = await eventually(buried, 30)
        assert letter["id"] == job["id"]
        assert letter["group"]["error_type"] == "WorkerLost"
        shown = (await http.get(f"/v1/dead-letters/{job['id']}")).json()["job"]
        assert [attempt["error"]["type"] for attempt in shown["attempts"]] == ["WorkerLost"] * 3
        healthy = await http.post("/v1/jobs", json={"type": "harmless"}, headers={"Prefer": "wait=20"})
        assert healthy.json()["status"] == "succeeded"

        # Once more, and it is as deadly as it was: a new run, whose crashes are counted anew.
        assert (await http.post(f"/v1/dead-letters/{job['id']}/requeue")).status_code == 202
        assert await asyncio.to_thread(worker.ended) == -9
        again = (await http.get(f"/v1/jobs/{job['id']}")).json()
        assert again["run"] == 2
        assert len(again["attempts"]) == 3
        assert job["id"] not in [found["id"] for found in await letters(http)]


async def test_bytes_that_are_no_job_reach_the_operator(
    redis_url: str, amqp_url: str, redis: Redis, tmp_path: Any
) -> None:
    del redis  # emptied
    with stack(redis_url, amqp_url, tmp_path) as product:
        _, url = await asyncio.to_thread(product.gateway)
        await asyncio.to_thread(product.worker)
        marker = "no job at all"
        async with plain(amqp_url) as amqp_channel:
            message = aio_pika.Message(marker.encode(), delivery_mode=2)
            await amqp_channel.default_exchange.publish(message, "jobs.default.default")
        async with client(url) as http:

            async def buried() -> list[dict[str, Any]]:
                found = await letters(http, "?unowned=true&reason=undecodable")
                return [item for item in found if item["message"]["size"] == len(marker)]

            (letter,) = await eventually(buried, 30)
            shown = (await http.get(f"/v1/dead-letters/{letter['id']}?unowned=true")).json()
            assert shown["message"]["body"]["text"] == marker
            assert shown["message"]["source"] == "jobs.default.default"
            assert (await http.get("/readyz")).status_code == 200
