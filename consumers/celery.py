"""The Celery bridge: an unchanged Celery application's tasks as live jobs.

Its workers' events are recorded in order, a batch at a time, before they are acknowledged; progress and whole results
come from its Redis result backend, if that is known. Jobs cancelled here are revoked there.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog

from consumers.celery_events import TaskEvent, Unreadable, change_of, of_result, read
from consumers.celery_rules import birth, rule_for
from consumers.patience import until_stored
from gateway.errors import GatewayError, StoreUnavailable
from gateway.events import new_id
from gateway.jobs.foreign import Birth, Change, ForeignJobs, Named, Revocation, Seen
from gateway.jobs.queue import Incoming
from gateway.jobs.rabbitmq_celery import CeleryControl, Send, declare_celery_events
from gateway.jobs.rabbitmq_intake import Intake
from gateway.settings import Settings
from gateway.store.celery_results import Held, Results
from gateway.store.deadletters import DeadLetterStore
from gateway.store.redis import Store

log = structlog.get_logger(__name__)

SOURCE: Final = "celery"
QUEUE: Final = "gateway.celery"
CONTROL_EVERY: Final = 2.0
PROGRESS_EVERY: Final = 0.1
UNTOLD: Final = 5.0  # seconds the event of an ended task may take; then its stored result is taken for it
MAX_KNOWN: Final = 50_000  # ids held in memory
_BIRTHS: Final = frozenset({"task-sent", "task-received"})


@dataclass(frozen=True, kw_only=True)
class BridgePlan:
    """What a bridge does.

    Attributes:
        broker: Celery's, an AMQP address.
        results: its Redis result backend, if it has one.
        silence: seconds without a word after which an open task is taken for lost.
        terminate: whether a running task that is cancelled here is killed there, not only revoked.
    """

    broker: str
    results: str | None = None
    silence: float = 86_400.0
    terminate: bool = True


class CeleryBridge:
    """Shows a Celery application's tasks as jobs."""

    def __init__(self, store: Store, settings: Settings, plan: BridgePlan) -> None:
        self._plan = plan
        self._rules = settings.celery
        self._jobs = ForeignJobs(store, settings, SOURCE, plan.silence)
        self._dead = DeadLetterStore(store, settings)
        self._intake = Intake(plan.broker, QUEUE, partial(declare_celery_events, queue=QUEUE), self.handle)
        self._control = CeleryControl(plan.broker, CONTROL_EVERY, self._round)
        self._results = Results(plan.results) if plan.results else None
        self._known: OrderedDict[str, Named] = OrderedDict()
        self._progress = Held()
        self._ended = Held()

    def stop(self) -> None:
        """Ask `run` to return after the batch in hand."""
        self._intake.stop()

    async def run(self) -> None:
        """Bridge until stopped or cancelled; while Redis or RabbitMQ is away nothing is lost, and nothing done.

        Raises:
            ConfigurationError: in a group; the broker has our queue with other properties.
        """
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(self._control.run())]
            if self._results is not None:
                beside += [
                    tasks.create_task(self._results.follow(self._on_result)),
                    tasks.create_task(self._record_results()),
                ]
            try:
                await self._intake.run()
            finally:
                for task in beside:
                    task.cancel()
                if self._results is not None:
                    await self._results.close()

    async def handle(self, messages: Sequence[Incoming]) -> None:
        """Record a batch of messages, and bury what is none of Celery's; waits for Redis as long as it takes."""
        events: list[TaskEvent] = []
        for message in messages:
            try:
                events += read(message.body, message.content_type)
            except Unreadable as error:
                bury = partial(self._dead.bury, None, "undecodable", QUEUE, message.body, message.headers)
                await until_stored(partial(bury, detail=str(error), message_id=message.message_id))
        births = {event.uuid: self._born(event) for event in events if event.type in _BIRTHS}
        named = await self._named([event.uuid for event in events], births)
        whole = await self._whole_results(events)
        seen: dict[str, list[Seen]] = {}
        for event in events:
            job = named.get(event.uuid)
            if job is None:
                log.debug("celery.unknown_task", task_id=event.uuid, type=event.type)  # told before we listened
                continue
            change = change_of(event)
            if ended(change):
                self._ended.drop(event.uuid)
            better = whole.get(event.uuid)
            if better is not None and better.state == change.state:
                change = better._replace(worker=change.worker)  # the same change, told better
            known = births[event.uuid][1] if event.type in _BIRTHS else None
            seen.setdefault(job.tenant, []).append(Seen(job.job_id, change, known))
        await self._observe(seen)

    def _born(self, event: TaskEvent) -> tuple[Named, Birth]:
        rule = rule_for(self._rules, event.name or "")
        return Named(rule.tenant, new_id("job_")), birth(event, rule)

    async def _named(self, ids: Sequence[str], births: Mapping[str, tuple[Named, Birth]]) -> dict[str, Named]:
        """Find the jobs of tasks; those whose event says what they are get one if need be."""
        named = {task_id: self._known[task_id] for task_id in ids if task_id in self._known}
        strange = [task_id for task_id in dict.fromkeys(ids) if task_id not in named]
        if strange:
            wanted = [(task_id, births[task_id][0] if task_id in births else None) for task_id in strange]
            found = await until_stored(partial(self._jobs.named, wanted))
            for task_id, job in zip(strange, found, strict=True):
                if job is not None:
                    named[task_id] = job  # it may be forgotten again for another one of these
                    self._remember(task_id, job)
        return named

    def _remember(self, task_id: str, job: Named) -> None:
        self._known[task_id] = job
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    async def _whole_results(self, events: Sequence[TaskEvent]) -> dict[str, Change]:
        """Read what the backend has of the tasks that ended: the event holds a cut repr of it."""
        if self._results is None:
            return {}
        finished = [event.uuid for event in events if event.type in {"task-succeeded", "task-failed"}]
        stored = await self._results.fetch(finished)
        read_ = [of_result(meta) for meta in stored.values()]
        return {task_id: change for task_id, change in filter(None, read_) if ended(change)}

    async def _observe(self, seen: Mapping[str, list[Seen]]) -> None:
        for tenant, part in seen.items():
            try:
                await until_stored(partial(self._jobs.observe, tenant, part))
            except GatewayError as error:
                if len(part) == 1:
                    # Ending here would bring the same messages again, for ever, and stop all other tasks' stories.
                    log.exception("celery.unrecorded", job_id=part[0].job_id, tenant=tenant, reason=error.code)
                    continue
                for one in part:  # which of them it is; what is recorded already is recognised
                    await self._observe({tenant: [one]})

    def _on_result(self, message: bytes) -> None:
        """Hold what the backend says: the newest progress for a moment, an end until its event had its time."""
        found = of_result(message)
        if found is None:
            return
        task_id, change = found
        now = asyncio.get_running_loop().time()
        if ended(change):
            self._progress.drop(task_id)
            self._ended.put(task_id, now + UNTOLD, change)
        else:
            self._progress.put(task_id, now, change)

    async def _record_results(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_EVERY)
            now = asyncio.get_running_loop().time()
            held = {**dict(self._progress.due(now)), **dict(self._ended.due(now))}
            if not held:
                continue
            named = await self._named(list(held), {})
            seen: dict[str, list[Seen]] = {}
            for task_id, job in named.items():
                seen.setdefault(job.tenant, []).append(Seen(job.job_id, held[task_id]))
            await self._observe(seen)

    async def _round(self, send: Send) -> None:
        """Tell the workers to tell their events, as Flower does, and what has been cancelled here."""
        cancelled: list[Revocation] = []
        try:
            cancelled = await self._jobs.revocations()
        except StoreUnavailable:
            log.warning("celery.waiting")
        commands: list[Mapping[str, Any]] = [{"method": "enable_events", "arguments": {}}]
        for job in cancelled:
            arguments = {"task_id": job.foreign_id, "terminate": self._plan.terminate, "signal": "SIGTERM"}
            commands.append({"method": "revoke", "arguments": arguments})
        if await send(commands) and cancelled:
            await until_stored(partial(self._jobs.revocations, cancelled))


def ended(change: Change) -> bool:
    """Say whether a task is over with this, by itself."""
    return change.state in {"succeeded", "failed"}
