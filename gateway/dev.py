"""`gateway dev`: web, workers and an embedded Redis part in one process, for a first look and for developing."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import click
import msgspec
import structlog

from consumers.registry import load as load_tasks
from consumers.relay import Relay
from consumers.worker import Plan, Worker
from gateway.app import build_app
from gateway.jobs.queue import JobQueue
from gateway.jobs.queues import open_queue
from gateway.jobs.rebuild import Rebuilder
from gateway.jobs.store import JobStore
from gateway.server.lifespan import StartStoppedError
from gateway.server.run import ServerOptions, serving
from gateway.settings import PREFIX, Settings, load
from gateway.store.channels import ChannelStore
from gateway.store.embedded import embedded_redis
from gateway.store.redis import Store
from gateway.telemetry.logs import configure
from gateway.telemetry.supervisor import Supervisor

log = structlog.get_logger(__name__)

EXAMPLES = "consumers.examples"
LOOPBACK = ("127.0.0.0/8", "::1/128")


async def run_dev(host: str, port: int, data: Path, concurrency: int) -> None:
    """Run everything until a signal says otherwise; open jobs continue at the next start."""
    async with AsyncExitStack() as stack:
        stack.enter_context(suppress(StartStoppedError))
        settings = await _settings(stack, data)
        configure(settings)
        queue = await stack.enter_async_context(open_queue(settings))
        samples = {"sample.csv": Path(__file__).parent.parent / "consumers/examples/data/weather.csv"}
        app = build_app(settings, queue=queue, samples=samples)
        await stack.enter_async_context(_worker(settings, queue, concurrency))
        options = ServerOptions(host=host, port=port)
        server = await stack.enter_async_context(serving(app, settings, options, signals=True))
        _greet(f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{server.port}", settings)  # noqa: S104 - a comparison
        await server.stopping.wait()


async def _settings(stack: AsyncExitStack, data: Path) -> Settings:
    """Settle what is not set: an embedded Redis, an in-process queue, secrets kept in the data folder."""
    given = os.environ
    given.setdefault("EXAMPLES_DATA", str(data))  # where the example tasks keep what is theirs
    chosen: dict[str, Any] = {"attachments_dir": str(data / "attachments")}
    if PREFIX + "REDIS_URL" not in given:
        chosen["redis_url"] = await stack.enter_async_context(embedded_redis(data / "redis"))
    else:
        data.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - once, before anything is served
    if PREFIX + "AMQP_URL" not in given:
        chosen["amqp_url"] = "memory://"
    if PREFIX + "ROOT_KEY" not in given:
        chosen["root_key"] = _kept(data / "root.key", "gk_root_")
    if PREFIX + "TOKEN_SECRET" not in given:
        chosen["token_secret"] = _kept(data / "token.secret", "")
    if PREFIX + "WEBHOOK_ALLOW" not in given:
        chosen["webhook_allow"] = LOOPBACK
    if PREFIX + "LOG_FORMAT" not in given:
        chosen["log_format"] = "console"
    if PREFIX + "LOG_LEVEL" not in given:
        chosen["log_level"] = "warning"
    return load(**chosen)


def _kept(path: Path, prefix: str) -> str:
    """Return a secret that stays the same over restarts; only its owner may read the file."""
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(prefix + secrets.token_urlsafe(32))
    return path.read_text().strip()


@asynccontextmanager
async def _worker(settings: Settings, queue: JobQueue, concurrency: int) -> AsyncIterator[None]:
    async with Store.open(settings) as store:
        await store.check_at_start()
        jobs = JobStore(store)
        memory = settings.amqp_url.startswith("memory:")
        if memory:
            await _requeue(jobs)
        plan = Plan(tasks=load_tasks(EXAMPLES), module=EXAMPLES, concurrency=concurrency, grace=5)
        rebuilder = Rebuilder(jobs, ChannelStore(store, settings), settings)
        worker = Worker(queue, jobs, rebuilder, settings, plan)
        async with Supervisor() as supervisor:
            supervisor.keep("worker", worker.run)
            if not memory:  # the in-process queue has no exchange anybody could publish to
                supervisor.keep("relay", Relay(store, settings).run)
            try:
                yield
            finally:
                worker.stop()
                await worker.stopped()


async def _requeue(jobs: JobStore) -> None:
    """Give back to the due set what the in-process queue held when the process ended."""
    for tag in jobs.tags():
        while await jobs.requeue(tag, "default"):
            pass


def _greet(url: str, settings: Settings) -> None:
    body = msgspec.json.encode({"type": "echo", "input": {"value": "hello", "seconds": 3, "steps": 10}}).decode()
    click.echo(
        f"\n  Notification gateway on {url}\n\n"
        f"  Dashboard   {url}/#key={settings.root_key}\n"
        f"  Root key    {settings.root_key}\n"
        f"  Try         curl -s -H 'Authorization: Bearer {settings.root_key}' "
        f"-H 'Content-Type: application/json' -d '{body}' {url}/v1/jobs\n\n"
        "  Ctrl-C stops it; jobs that are open go on at the next start.\n"
    )
