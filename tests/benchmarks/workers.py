"""Jobs beside Celery's tasks: the same broker and Redis, the same task with nothing to do, the same run.

Both keep what they are told: quorum queue, confirmed publishing, acknowledged after the work, result in Redis, events
on, one worker process. Ours also records state and history of each job and tells subscribers.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import redis
import uvloop
from rich.console import Console
from rich.table import Table

from tests.benchmarks.jobs import Target, subscribed
from tests.benchmarks.tables import Goal
from tests.benchmarks.tools import environment
from tests.e2e.stack import ROOT_KEY, Process, Stack, client, stack
from tests.support.servers import RabbitServer, RedisServer

OURS = "gateway"
POOLS = {"Celery, solo": ("--pool=solo",), "Celery, prefork": ("--pool=prefork", "--concurrency=1")}
LIMIT = 120.0
POLL = 0.005
BATCH = 250
MODULE = "tests.benchmarks.noop_task"
DONE_KEY = "{s00}:ix:default:s:succeeded"

Row = dict[str, float]


class Plan(NamedTuple):
    """How much is measured. Each round measures everyone once, one after the other.

    Attributes:
        rounds: the median is shown.
        jobs: drained.
        submissions: one by one.
        latencies: paced, one after the other.
    """

    rounds: int = 3
    jobs: int = 5000
    submissions: int = 500
    latencies: int = 300


QUICK = Plan(rounds=1, jobs=500, submissions=50, latencies=20)


class Submitter:
    """Submits no-op jobs over one kept HTTP connection."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._connection = http.client.HTTPConnection(host, int(port))
        self._headers = {"Authorization": f"Bearer {ROOT_KEY}", "Content-Type": "application/json"}

    def _post(self, path: str, body: object) -> Any:
        self._connection.request("POST", path, json.dumps(body), self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status == 202, text
        return json.loads(text)

    def singly(self, count: int) -> None:
        for _ in range(count):
            self._post("/v1/jobs", {"type": "noop", "input": 1})

    def many(self, count: int) -> None:
        for done in range(0, count, BATCH):
            number = min(BATCH, count - done)
            answer = self._post("/v1/jobs/batch", {"jobs": [{"type": "noop", "input": 1}] * number})
            assert all(item["status"] == 202 for item in answer["jobs"])


class Ours:
    """Gateway and worker; both are started when needed and stopped after."""

    def __init__(self, product: Stack, redis_url: str) -> None:
        self._product = product
        self._redis = redis.Redis.from_url(redis_url)

    def measure(self, plan: Plan) -> Row:
        gateway, url = self._product.gateway()
        worker = self._worker()  # makes the type known
        row = uvloop.run(_our_latencies(Target(OURS, url, ROOT_KEY), plan.latencies))
        worker.stop()
        submitter = Submitter(url)
        submitter.many(BATCH)  # connections, imports
        row["submit_per_s"] = _rate(plan.submissions, lambda: submitter.singly(plan.submissions))
        row["batch_per_s"] = _rate(plan.jobs, lambda: submitter.many(plan.jobs))
        waiting = BATCH + plan.submissions + plan.jobs
        done = int(self._redis.zcard(DONE_KEY))
        worker = self._worker()
        row["jobs_per_s"] = _drain(lambda: int(self._redis.zcard(DONE_KEY)) - done, waiting)
        worker.stop()
        gateway.stop()
        self._redis.flushdb()
        return row

    def _worker(self) -> Process:
        # As Celery's prefetch multiplier of 100: with nothing to do, the rate is that of what is under way at a time.
        return self._product.worker("--concurrency", "100", module=MODULE)


async def _our_latencies(target: Target, count: int) -> Row:
    headers = {"Authorization": f"Bearer {target.key}"}
    async with (
        client(target.url, target.key) as http_client,
        subscribed(target, http_client) as arrivals,
        aiohttp.ClientSession(target.url, headers=headers) as session,
    ):

        async def one() -> float:
            began = time.perf_counter()
            async with session.post("/v1/jobs", json={"type": "noop", "input": 1}) as answer:
                job_id = (await answer.json())["id"]
            (arrived,) = await arrivals.of([job_id])
            return arrived - began

        for _ in range(count // 10):
            await one()
        return _latency([await one() for _ in range(count)])


class Peer:
    """A Celery worker of one kind."""

    def __init__(self, noop: Any, env: dict[str, str], options: tuple[str, ...], redis_url: str) -> None:
        self._noop = noop
        self._env = env
        self._options = options
        self._redis = redis.Redis.from_url(redis_url)

    def measure(self, plan: Plan) -> Row:
        with self._worker():
            for _ in range(plan.latencies // 10):
                self._latency()
            row = _latency([self._latency() for _ in range(plan.latencies)])
        self._redis.flushdb()
        row["submit_per_s"] = _rate(plan.submissions, lambda: [self._noop.delay(1) for _ in range(plan.submissions)])
        for _ in range(plan.jobs):
            self._noop.delay(1)
        with self._worker():
            row["jobs_per_s"] = _drain(self._redis.dbsize, plan.jobs + plan.submissions)
        self._redis.flushdb()
        return row

    def _latency(self) -> float:
        began = time.perf_counter()
        self._noop.delay(1).get(timeout=LIMIT)
        return time.perf_counter() - began

    @contextmanager
    def _worker(self) -> Iterator[None]:
        command = ["celery", "-A", "tests.benchmarks.celery_app", "worker", "-E", "--loglevel", "INFO", *self._options]
        process = Process(command, self._env)
        try:
            process.wait_for(" ready.")
            yield
        finally:
            process.stop()


def _rate(count: int, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return round(count / (time.perf_counter() - began), 1)


def _drain(done: Callable[[], int], count: int) -> float:
    """Jobs per second, from a tenth of them on: what the start costs does not count."""
    began, first, found = 0.0, 0, 0
    limit = time.monotonic() + LIMIT
    while found < count:
        assert time.monotonic() < limit, f"{found} of {count} done"
        found = done()
        if not began and found >= count // 10:
            began, first = time.perf_counter(), found
        time.sleep(POLL)
    return round((count - first) / (time.perf_counter() - began), 1)


def _latency(seconds: list[float]) -> Row:
    cut = statistics.quantiles(seconds, n=100)
    return {"p50_ms": round(cut[49] * 1000, 2), "p99_ms": round(cut[98] * 1000, 2)}


def run(plan: Plan, tell: Callable[[str], None]) -> dict[str, Row]:
    """Measure everyone in turn, round after round; returns the median of each figure."""
    rounds: dict[str, list[Row]] = {}
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        redis_server, rabbit_server = opened.enter_context(RedisServer()), opened.enter_context(RabbitServer())
        product = opened.enter_context(
            stack(redis_server.url, rabbit_server.url, folder, GATEWAY_LEASE="15", GATEWAY_MAX_OPEN_JOBS="1000000")
        )
        measured: dict[str, Ours | Peer] = {OURS: Ours(product, redis_server.url)}
        measured |= _peers(rabbit_server.url, redis_server.url.removesuffix("/0") + "/1")
        for number in range(plan.rounds):
            for name, each in measured.items():
                row = each.measure(plan)
                tell(f"round {number + 1}, {name}: {row}")
                rounds.setdefault(name, []).append(row)
    return {name: _median(rows) for name, rows in rounds.items()}


def _peers(amqp_url: str, redis_url: str) -> dict[str, Peer]:
    os.environ.update(BENCH_AMQP_URL=amqp_url, BENCH_REDIS_URL=redis_url)
    from tests.benchmarks.celery_app import noop  # noqa: PLC0415 - it reads where the servers are when imported

    env = environment(BENCH_AMQP_URL=amqp_url, BENCH_REDIS_URL=redis_url, BENCH_WORKER="1")
    return {name: Peer(noop, env, options, redis_url) for name, options in POOLS.items()}


def _median(rows: list[Row]) -> Row:
    return {column: statistics.median(row[column] for row in rows) for column in rows[0]}


def goals(results: dict[str, Row]) -> list[Goal]:
    """Ours beside the best of Celery's in each figure."""
    ours = results[OURS]
    peers = [row for name, row in results.items() if name != OURS]

    def ratio(column: str, best: Callable[..., float], ours_in: str = "") -> float:
        return round(ours[ours_in or column] / best(row[column] for row in peers), 2)

    return [
        Goal("no-op jobs/s of a worker process ÷ Celery's", ratio("jobs_per_s", max), 3.0, least=True),
        Goal("submit → success at a subscriber, p50 ÷ Celery's submit → result", ratio("p50_ms", min), 1.0),
        Goal("submit → success at a subscriber, p99 ÷ Celery's submit → result", ratio("p99_ms", min), 1.0),
        Goal("submissions/s over HTTP, one by one ÷ delay()", ratio("submit_per_s", max), 0.5, least=True),
        Goal(
            "submissions/s over HTTP, in batches ÷ delay()", ratio("submit_per_s", max, "batch_per_s"), 1.0, least=True
        ),
    ]


def show(console: Console, results: dict[str, Row]) -> None:
    """Print the table."""
    columns = ("jobs_per_s", "p50_ms", "p99_ms", "submit_per_s", "batch_per_s")
    table = Table("", *columns, title="Jobs beside Celery's tasks, one worker process each")
    for name, row in results.items():
        table.add_row(name, *(f"{row[column]:g}" if column in row else "-" for column in columns))
    console.print(table)
