"""The `consumers` command."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import structlog
import uvloop

from consumers.celery import BridgePlan, CeleryBridge
from consumers.registry import load as load_tasks
from consumers.relay import Relay
from consumers.worker import Plan, Worker, WorkerStuck
from gateway import __version__
from gateway.errors import ConfigurationError
from gateway.jobs.attachments import open_attachments
from gateway.jobs.queues import open_queue
from gateway.jobs.reaper import Reaper
from gateway.jobs.rebuild import Rebuilder
from gateway.jobs.scheduler import Scheduler
from gateway.jobs.store import JobStore
from gateway.jobs.task_types import TaskTypes
from gateway.settings import Settings, load
from gateway.store.channels import ChannelStore
from gateway.store.redis import Store
from gateway.telemetry.logs import configure
from gateway.telemetry.supervisor import Supervisor
from gateway.urls import check_address

log = structlog.get_logger(__name__)


class Seconds(click.FloatRange):
    """A duration: click lets NaN and infinity through a range."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's
        """Return the number; fails with a sentence."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


GRACE = Seconds(0, 86_400)
SILENCE = Seconds(1, 366 * 86_400)


@click.group()
@click.version_option(__version__)
def main() -> None:
    """Job workers, relay and bridges of the notification gateway."""


@main.command()
@click.argument("module")
@click.option("--pool", default="default", show_default=True, help="Whose jobs to run.")
@click.option("--concurrency", default=10, show_default=True, type=click.IntRange(1, 1000), help="Jobs at a time.")
@click.option(
    "--grace", default=20.0, show_default=True, type=GRACE, help="Seconds running jobs get when the worker is stopped."
)
def run(module: str, pool: str, concurrency: int, grace: float) -> None:
    """Run the tasks that MODULE registers."""
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` would: tasks lie beside where the command is run
    _go(_work(module, pool, concurrency, grace))


async def _work(module: str, pool: str, concurrency: int, grace: float) -> None:
    settings = load()
    configure(settings)
    _insist_on_broker(settings, "a worker gets its jobs from RabbitMQ, and `gateway dev` runs its own")
    tasks = load_tasks(module)
    if not any(task.pool == pool for task in tasks.values()):
        raise ConfigurationError(f"the module {module!r} registers no task of the pool {pool!r}")
    async with Store.open(settings) as store, open_queue(settings) as queue, open_attachments(settings) as files:
        await store.check_at_start()
        jobs = JobStore(store)
        plan = Plan(tasks=tasks, module=module, pool=pool, concurrency=concurrency, grace=grace)
        channels = ChannelStore(store, settings)
        worker = Worker(queue, jobs, Rebuilder(jobs, channels, settings), settings, plan)
        _stopped_by_signals(worker.stop)
        reaper = Reaper(jobs, queue, settings, files.forget)
        async with Supervisor() as supervisor:
            supervisor.keep("reaper", reaper.run)
            supervisor.keep("scheduler", Scheduler(jobs, TaskTypes(store), channels, settings).run)
            await worker.run()
    log.info("worker.stopped")


@main.command()
def relay() -> None:
    """Publish what other programs send to the exchange `events`."""
    _go(_relay())


async def _relay() -> None:
    settings = load()
    configure(settings)
    _insist_on_broker(settings, "the relay consumes RabbitMQ")
    async with Store.open(settings) as store:
        await store.check_at_start()
        relaying = Relay(store, settings)
        _stopped_by_signals(relaying.stop)
        await relaying.run()
    log.info("relay.stopped")


@main.command()
@click.option("--broker", required=True, envvar="CELERY_BROKER_URL", help="Celery's broker, amqp://…")
@click.option("--results", envvar="CELERY_RESULT_BACKEND", help="Its Redis result backend: progress, whole results.")
@click.option(
    "--silence", default=86_400.0, show_default=True, type=SILENCE, help="Seconds after which a silent task is lost."
)
@click.option("--terminate/--no-terminate", default=True, show_default=True, help="Kill what runs when cancelled here.")
def celery(broker: str, results: str | None, silence: float, terminate: bool) -> None:  # noqa: FBT001 - click's way
    """Show the tasks of an unchanged Celery application as live jobs."""
    _go(_celery(BridgePlan(broker=broker, results=results, silence=silence, terminate=terminate)))


async def _celery(plan: BridgePlan) -> None:
    settings = load()
    configure(settings)
    for name, url, schemes in (
        ("--broker", plan.broker, ("amqp", "amqps")),
        ("--results", plan.results, ("redis", "rediss")),
    ):
        if url:
            check_address(name, url, schemes)
    async with Store.open(settings) as store:
        await store.check_at_start()
        bridge = CeleryBridge(store, settings, plan)
        _stopped_by_signals(bridge.stop)
        await bridge.run()
    log.info("celery.stopped")


def _insist_on_broker(settings: Settings, why: str) -> None:
    if urlsplit(settings.amqp_url).scheme == "memory":
        raise ConfigurationError(f"{why}: set GATEWAY_AMQP_URL to a broker")


def _stopped_by_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


def _go(program: Coroutine[None, None, None]) -> None:
    try:
        uvloop.run(program)
    except WorkerStuck as error:
        _refuse(error, code=1)
    except ConfigurationError as error:
        _refuse(error)
    except BaseExceptionGroup as group:
        # Task groups wrap what went wrong, one in the other; a setting is still told as a sentence.
        found: BaseException | None = group.split(ConfigurationError)[0]
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        if found is None:
            raise
        _refuse(found)


def _refuse(error: BaseException, *, code: int = 2) -> None:
    click.echo(f"consumers: {error}", err=True)
    raise SystemExit(code) from None


if __name__ == "__main__":
    main()
