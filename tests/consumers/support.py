"""A bench for jobs: stores on a real Redis, a queue, a service, workers and reapers that end with the test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec

from consumers.registry import Function, Task
from consumers.worker import Plan, Worker
from gateway.events import Position
from gateway.jobs.consumption import Consumption
from gateway.jobs.folder import FolderAttachments
from gateway.jobs.local import LocalQueue
from gateway.jobs.model import TERMINAL_EVENTS
from gateway.jobs.queue import Delivery, Handler, JobQueue, Message
from gateway.jobs.reaper import Reaper
from gateway.jobs.rebuild import Rebuilder
from gateway.jobs.service import Accepted, JobService
from gateway.jobs.store import JobStore
from gateway.jobs.submission import Submission
from gateway.settings import Settings
from gateway.store.channels import ChannelStore
from gateway.store.redis import Store
from tests.support.messages import TRACE, make_message
from tests.support.waiting import LIMIT, eventually

TENANT = "default"
TASKS = "tests.consumers.tasks"
SLOW = 60.0  # a process imports the task's module anew, on a machine that may be busy
BEATING = 5.0  # a lease with a heartbeat every other second, that outlasts a pause of the machine


class WatchedQueue(LocalQueue):
    """A queue in this process that remembers whose handlers have returned."""

    def __init__(self) -> None:
        super().__init__()
        self.handled: list[str] = []

    def consume(self, pool: str, prefetch: Mapping[str, int], handler: Handler) -> Consumption[Delivery]:
        async def watched(delivery: Delivery) -> None:
            await handler(delivery)
            self.handled.append(delivery.message.id)

        return super().consume(pool, prefetch, watched)

    async def left(self, pool: str) -> int:
        """How many messages are ready; without a consumer, all that nobody settled."""
        return sum((await self.depth(pool)).values())


class FakeWatcher:
    """Tells what the test tells it."""

    def __init__(self) -> None:
        self.events: dict[str, asyncio.Event] = {}

    @asynccontextmanager
    async def watch(self, tenant: str, channel: str) -> AsyncIterator[asyncio.Event]:
        event = self.events[f"{tenant} {channel}"] = asyncio.Event()
        try:
            yield event
        finally:
            del self.events[f"{tenant} {channel}"]


class Bench:
    """Everything about jobs, for one pool."""

    def __init__(self, store: Store, settings: Settings, queue: JobQueue, pool: str, jobs: JobStore) -> None:
        self.store = store
        self.settings = settings
        self.queue = queue
        self.pool = pool
        self.jobs = jobs
        self.tag = store.tag(TENANT)
        self.channels = ChannelStore(store, settings)
        self.watcher = FakeWatcher()
        self.service = JobService(jobs, queue, self.channels, self.watcher, settings)
        self.attachments = FolderAttachments(settings.attachments_dir, settings.max_attachment_bytes)

    def with_settings(self, **changes: Any) -> Settings:
        """The settings with changes that are not validated: a lease may be shorter than any operator's."""
        return msgspec.structs.replace(self.settings, **changes)

    async def register(self, *names: str, max_attempts: int = 5, limit: float = 60) -> None:
        await self.jobs.register(dict.fromkeys(names, (self.pool, max_attempts, limit)))

    async def accept(
        self, type_: str = "echo", *, key: str | None = None, value: Any = None, **fields: Any
    ) -> Accepted:
        wanted = Submission(type=type_, input=msgspec.Raw(json.dumps(value).encode()), **fields)
        return await self.service.submit(TENANT, wanted, traceparent=TRACE, idempotency_key=key)

    async def submit(self, type_: str = "echo", **fields: Any) -> str:
        return (await self.accept(type_, **fields)).id

    async def job(self, job_id: str) -> dict[str, Any]:
        found = await self.service.get(TENANT, job_id, full=True)
        job: dict[str, Any] = json.loads(found.json)
        job["attempts"] = [json.loads(attempt) for attempt in found.attempts]
        return job

    async def until(self, job_id: str, status: str, limit: float = LIMIT, *, run: int = 0) -> dict[str, Any]:
        """The job, once it has the status: in any run, or in the one that is told."""

        async def arrived() -> dict[str, Any]:
            job = await self.job(job_id)
            return job if job["status"] == status and run in (0, job["run"]) else {}

        return await eventually(arrived, limit)

    async def heard(self, channel: str) -> list[dict[str, Any]]:
        """All events of a channel."""
        history = await self.channels.history(TENANT, channel, since=Position("", 0), limit=-1)
        assert history.complete
        return [json.loads(publication.event) for publication in history.publications]

    async def log(self, job_id: str) -> list[dict[str, Any]]:
        return await self.heard(f"job:{job_id}")

    async def events(self, job_id: str) -> list[str]:
        return [event["type"] for event in await self.log(job_id)]

    async def ends(self, job_id: str) -> list[str]:
        return [event for event in await self.events(job_id) if event in TERMINAL_EVENTS]

    async def message(self, job_id: str) -> Message:
        """The message of a job's present attempt."""
        job = await self.job(job_id)
        return make_message(**{name: job[name] for name in ("pool", "id", "type", "priority", "run", "attempt")})

    async def make_due(self, *job_ids: str) -> None:
        """Their time has come: a lease has ended, a delay is over."""
        await self.store.client.zadd(self.tag + "due", {f"{TENANT} {job_id}": 0 for job_id in job_ids}, xx=True)

    async def lose_lease(self, job_id: str) -> None:
        """Its worker is taken for lost, although it lives."""

        async def lost() -> bool:
            await self.make_due(job_id)  # a heartbeat may come between
            return (await self.jobs.due(self.tag, limit=10, lease=60, publish=True)).lost == 1

        await eventually(lost)

    async def due(self) -> dict[str, float]:
        """What is due, and when: seconds since 1970."""
        found: list[Any] = list(await self.store.client.zrange(self.tag + "due", 0, -1, withscores=True))
        return {name.decode().split()[1]: score / 1000 for name, score in found}

    async def hand_over(self, job_id: str) -> Message:
        """What a reaper would publish for a job right now."""
        await self.make_due(job_id)
        (message,) = (await self.jobs.due(self.tag, limit=10, lease=60, publish=True)).messages
        assert message.id == job_id
        return message

    def task(self, name: str, function: Function, **changes: Any) -> Task:
        runs_in: Literal["loop", "thread"] = "loop" if asyncio.iscoroutinefunction(function) else "thread"
        task = Task(name, function, self.pool, timeout=60, max_attempts=5, runs_in=runs_in)
        return task._replace(**changes)

    def worker(self, *tasks: Task, concurrency: int = 4, grace: float = 5) -> Worker:
        rebuilder = Rebuilder(self.jobs, self.channels, self.settings)
        by_name = {task.name: task for task in tasks}
        plan = Plan(tasks=by_name, module=TASKS, pool=self.pool, concurrency=concurrency, grace=grace)
        return Worker(self.queue, self.jobs, rebuilder, self.settings, plan)

    def reaper(self) -> Reaper:
        return Reaper(self.jobs, self.queue, self.settings, self.attachments.forget)

    @asynccontextmanager
    async def working(self, *tasks: Task, reap: bool = True, **plan: Any) -> AsyncIterator[Worker]:
        """A worker that runs these tasks, and a reaper; when entered, their types are known."""
        worker = self.worker(*tasks, **plan)
        async with background(worker.run(), *([self.reaper().run()] if reap else [])):
            await eventually(lambda: self._knows(tasks))
            yield worker

    async def _knows(self, tasks: Iterable[Task]) -> bool:
        known = set(await self.store.client.hkeys(self.tag + "types"))
        return known >= {task.name.encode() for task in tasks}


@asynccontextmanager
async def background(*works: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run these until the body ends. If one fails, the body is cancelled and its failure raised."""
    group = asyncio.TaskGroup()
    await group.__aenter__()
    tasks = [group.create_task(work) for work in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        # Without the body's exception: the group would wrap it.
        await group.__aexit__(None, None, None)


@asynccontextmanager
async def open_bench(
    redis_url: str, queue: JobQueue, pool: str, *, store_class: type[JobStore] = JobStore, **changes: Any
) -> AsyncIterator[Bench]:
    """A bench; the settings are not validated, so a lease may be shorter than any operator's."""
    settings = msgspec.structs.replace(Settings(redis_url=redis_url), **changes)
    async with Store.open(settings) as store:
        yield Bench(store, settings, queue, pool, store_class(store))
