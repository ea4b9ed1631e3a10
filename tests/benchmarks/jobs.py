"""What one job costs: submit → `job.succeeded` at a subscriber, and jobs per second.

The submitter and the subscriber are one process (this one), so both ends of a latency are read off one clock. The
subscriber is a WebSocket on the channel `jobs`. The job is `echo` with nothing to do: what is measured is the path.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import connect

from tests.e2e.stack import ROOT_KEY, Stack, client, stack
from tests.support.servers import RabbitServer, RedisServer

ROUNDS = 3
COLUMNS = ("p50_ms", "p95_ms", "p99_ms", "jobs_per_s")

LATENCY_JOBS = 300
THROUGHPUT_JOBS = 2000
BATCH = 250
LIMIT = 120.0


class Target(NamedTuple):
    """A running product: its name in the table, where it is, and its root key."""

    name: str
    url: str
    key: str


class Arrivals:
    """When each job's success reached the subscriber (monotonic seconds)."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self._news = asyncio.Condition()

    async def read(self, connection: Any) -> None:
        """Read pushes until cancelled."""
        async for text in connection:
            now = time.perf_counter()
            for line in str(text).split("\n"):
                message = json.loads(line)
                if not message:
                    await connection.send("{}")
                    continue
                event = message.get("push", {}).get("pub", {}).get("data", {})
                if event.get("type") == "job.succeeded":
                    self.at[event["subject"]] = now
            async with self._news:
                self._news.notify_all()

    async def of(self, job_ids: list[str]) -> list[float]:
        """Wait for jobs and return when they arrived."""
        async with asyncio.timeout(LIMIT), self._news:
            await self._news.wait_for(lambda: all(job_id in self.at for job_id in job_ids))
        return [self.at[job_id] for job_id in job_ids]


@asynccontextmanager
async def subscribed(target: Target, http: httpx.AsyncClient) -> AsyncIterator[Arrivals]:
    """A subscriber of the channel `jobs`."""
    caps = [{"channels": ["jobs"], "allow": ["sub"]}]
    token = (await http.post("/v1/tokens", json={"sub": "bench", "caps": caps})).json()["token"]
    address = target.url.replace("http", "ws", 1) + "/connection/websocket"
    async with connect(address, max_size=None) as connection:
        await connection.send(json.dumps({"id": 1, "connect": {"token": token}}))
        await connection.send(json.dumps({"id": 2, "subscribe": {"channel": "jobs"}}))
        seen = 0
        while seen < 2:
            replies = [json.loads(line) for line in str(await connection.recv()).split("\n")]
            assert not any("error" in reply for reply in replies), replies
            seen += len(replies)
        arrivals = Arrivals()
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(arrivals.read(connection))
            yield arrivals
            reading.cancel()


async def measure(target: Target) -> dict[str, float]:
    """Return milliseconds of p50, p95, p99 and jobs per second of one target."""
    async with client(target.url, target.key) as http, subscribed(target, http) as arrivals:
        await _latencies(http, arrivals, LATENCY_JOBS // 10)  # the first ones pay for imports and connections
        latencies = sorted(await _latencies(http, arrivals, LATENCY_JOBS))
        rate = await _throughput(http, arrivals)
    cut = statistics.quantiles(latencies, n=100)
    return {
        "p50_ms": round(cut[49] * 1000, 2),
        "p95_ms": round(cut[94] * 1000, 2),
        "p99_ms": round(cut[98] * 1000, 2),
        "jobs_per_s": round(rate, 1),
    }


async def _latencies(http: httpx.AsyncClient, arrivals: Arrivals, count: int) -> list[float]:
    """One job after the other: the path without queueing."""
    found = []
    for number in range(count):
        began = time.perf_counter()
        answer = await http.post("/v1/jobs", json={"type": "echo", "input": {"value": number}})
        (arrived,) = await arrivals.of([answer.json()["id"]])
        found.append(arrived - began)
    return found


async def _throughput(http: httpx.AsyncClient, arrivals: Arrivals) -> float:
    """As many as go: from the first submission to the last success."""
    began = time.perf_counter()
    ids: list[str] = []
    for _ in range(THROUGHPUT_JOBS // BATCH):
        jobs = [{"type": "echo", "input": {"value": 1}}] * BATCH
        answer = await http.post("/v1/jobs/batch", json={"jobs": jobs})
        ids += [item["job"]["id"] for item in answer.json()["jobs"]]
    arrived = await arrivals.of(ids)
    return len(ids) / (max(arrived) - began)


def run() -> dict[str, dict[str, float]]:
    """Measure `echo` through RabbitMQ and Redis, beside the in-process queue of `gateway dev`."""
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        redis_server = opened.enter_context(RedisServer())
        rabbit_server = opened.enter_context(RabbitServer())
        product = opened.enter_context(stack(redis_server.url, rabbit_server.url, folder, GATEWAY_LEASE="15"))
        targets = [_distributed(product), _in_process(product, folder)]
        rounds: dict[str, list[dict[str, float]]] = {target.name: [] for target in targets}
        for _ in range(ROUNDS):
            for target in targets:
                rounds[target.name].append(asyncio.run(measure(target)))
    return {name: _median(found) for name, found in rounds.items()}


def _distributed(product: Stack) -> Target:
    _, url = product.gateway()
    product.worker("--concurrency", "50")
    return Target("RabbitMQ + Redis, 1 web, 1 worker", url, ROOT_KEY)


def _in_process(product: Stack, folder: Path) -> Target:
    _, url, key = product.dev(folder / "dev")
    return Target("gateway dev: in-process queue", url, key)


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {column: statistics.median(found[column] for found in rounds) for column in COLUMNS}


def show(console: Console, results: dict[str, dict[str, float]]) -> None:
    """Print the table, the ratio of the first row to the second below it."""
    table = Table(title=f"submit → job.succeeded at a WebSocket subscriber, echo, median of {ROUNDS} rounds")
    for column in ("", *COLUMNS):
        table.add_column(column, justify="right" if column else "left")
    for name, found in results.items():
        table.add_row(name, *(f"{found[column]:g}" for column in COLUMNS))
    first, second = results.values()
    table.add_row("ratio", *(f"{first[column] / second[column]:.2f}" for column in COLUMNS), style="bold")
    console.print(table)
