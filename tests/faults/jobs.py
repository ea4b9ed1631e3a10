"""A scene for faults of jobs: a gateway, workers, a load, a receiver, listeners, and the audit at the end."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from tests.e2e.clients import token
from tests.e2e.stack import Process, Stack, client, stack
from tests.faults import limbo, work
from tests.faults.audit import Audit
from tests.faults.listeners import JobSocket, JobStream, Listener
from tests.faults.load import Load
from tests.faults.receiver import Receiver
from tests.faults.subscribers import Crowd
from tests.support.brokers import forget_dead_letters
from tests.support.waiting import eventually

# The limit counts the start of servers of their own, on a machine that may be busy.
SHORT = [pytest.mark.faults, pytest.mark.timeout(300)]
LONG = [pytest.mark.faults_long, pytest.mark.timeout(540)]
SETTLED = 90.0  # seconds until everything has ended after a fault
MARKERS = 6
LISTENERS = 2  # of each kind


class Servers(NamedTuple):
    """URLs of a Redis and a RabbitMQ."""

    redis: str
    amqp: str

    @property
    def redis_port(self) -> int:
        return urlsplit(self.redis).port or 0

    @property
    def amqp_port(self) -> int:
        return urlsplit(self.amqp).port or 0


class JobScene:
    """What a test breaks, and what it looks at afterwards.

    Attributes:
        lossy: Redis has been made to forget something: what it does not know any more is not missed.
        workers: those that run; a test that kills one takes it out.
    """

    def __init__(self, product: Stack, redis: Redis, pool: str, receiver: Receiver) -> None:
        self.product, self.redis, self.pool, self.receiver = product, redis, pool, receiver
        self.workers: list[Process] = []
        self.lossy = False
        self.listeners: list[Listener] = []
        self.load: Load
        self.crowd: Crowd
        self.url = ""
        self._began = time.monotonic()

    def start_worker(self, *options: str, **changes: str) -> Process:
        """Start a worker; returns at once."""
        started = self.product.run("consumers", "run", work.__name__, "--pool", self.pool, *options, **changes)
        self.workers.append(started)
        return started

    async def worker(self, *options: str, **changes: str) -> Process:
        """Start a worker; returns when it has told its types."""
        started = self.start_worker(*options, **changes)
        await asyncio.to_thread(started.wait_for, "worker.registered")
        return started

    async def several(self, count: int, **changes: str) -> None:
        """Start so many workers at once."""
        await asyncio.gather(*(self.worker(**changes) for _ in range(count)))

    async def kill(self, worker: Process) -> None:
        """kill -9."""
        self.workers.remove(worker)
        await asyncio.to_thread(worker.kill)

    def lines(self, text: str) -> list[dict[str, Any]]:
        """Log lines of all processes, also dead ones, that hold a text."""
        output = [line for process in self.product.processes for line in list(process.lines)]
        return [json.loads(line) for line in output if text in line and line.startswith("{")]

    async def ready(self) -> bool:
        """Whether the gateway says that it is."""
        async with client(self.url) as http:
            return (await http.get("/readyz")).status_code == 200

    def may_forget(self) -> None:
        """Redis is about to lose something."""
        self.lossy = self.load.forgetful = True

    async def run_again(self, count: int) -> None:
        """Have the first jobs run once more."""
        async with client(self.url) as http:
            for job_id in list(self.load.accepted.values())[:count]:
                (await http.post(f"/v1/jobs/{job_id}/retry")).raise_for_status()

    async def ended(self, count: int, limit: float = SETTLED) -> None:
        """Wait until so many jobs have succeeded."""

        async def reached() -> bool:
            return await limbo.successes(self.redis) >= count

        await eventually(reached, limit)

    async def settled(self, limit: float = SETTLED) -> None:
        """Wait until nothing is left to be done."""

        async def done() -> bool:
            return not await limbo.open_jobs(self.redis, self.pool)

        try:
            await eventually(done, limit)
        except AssertionError:
            raise AssertionError(f"in limbo: {await limbo.open_jobs(self.redis, self.pool)}") from None

    async def finish(self, name: str) -> Audit:
        """Wait for the end of everything, read it all, print the counts; fails when a promise is broken."""
        await self.settled()
        await self._listeners_caught_up()
        audit = Audit()
        await audit.read(self.url, lossless=not self.lossy)
        self._compare(audit)
        await self._nothing_left(audit)
        print(f"\n{name}: {self._counts(audit)}")  # noqa: T201 - the counts are what these runs are for
        assert not audit.wrong, "\n".join(audit.wrong[:20])
        return audit

    async def _listeners_caught_up(self) -> None:
        """Run one more job, until everyone has seen its end: who is being told of a gap goes on with what is next."""
        for _ in range(MARKERS):
            await self.load.submit(1)
            marker = next(reversed(self.load.accepted.values()))
            with suppress(AssertionError):
                await self._all_heard(marker)
                return await self.settled()
        raise AssertionError(f"never heard: {self.listeners!r}")

    async def _all_heard(self, job_id: str) -> None:
        await eventually(lambda: all(heard(each, job_id) for each in self.listeners), 5)

    def _compare(self, audit: Audit) -> None:
        accepted = set(self.load.accepted.values())
        if not self.lossy and audit.known != accepted:
            audit.wrong.append(f"{len(accepted - audit.known)} lost, {len(audit.known - accepted)} nobody submitted")
        if not self.lossy and audit.keys - self.receiver.effects:
            audit.wrong.append(f"succeeded without an effect: {audit.keys - self.receiver.effects}")
        for listener in self.listeners:
            if listener.wrong or (repeats := listener.repeats()):
                audit.wrong.append(f"a listener saw {listener.wrong or repeats}")
            if listener.missing != listener.skipped:
                audit.wrong.append(f"a listener missed {listener.missing} events and was told of {listener.skipped}")
            missed = audit.ends - set(listener.ends)
            if missed and not listener.told:
                audit.wrong.append(f"a listener missed {len(missed)} ends and was not told: {sorted(missed)[:3]}")

    async def _nothing_left(self, audit: Audit) -> None:
        async with client(self.url) as http:
            dead = (await http.get("/v1/dead-letters")).raise_for_status().json()["items"]
        if len(dead) != audit.outcomes["failed"]:
            audit.wrong.append(f"{audit.outcomes['failed']} failed, and there are {len(dead)} dead letters")
        codes = await asyncio.gather(*(asyncio.to_thread(worker.stop) for worker in self.workers))
        audit.wrong += [f"a worker ended with {code}" for code in codes if code]
        audit.wrong += [f"left in Redis: {key}" for key in await limbo.stray_keys(self.redis, audit.known)]
        if left := await limbo.messages_left(self.product.amqp_url, self.pool):
            audit.wrong.append(f"left at the broker: {left}")

    def _counts(self, audit: Audit) -> str:
        """Say what happened, in numbers."""
        dropped = len(self.lines("worker.dropped"))
        lost = sum(line["count"] for line in self.lines("reaper.leases_lost"))
        outcomes = ", ".join(f"{count} {state}" for state, count in sorted(audit.outcomes.items()))
        heard = sum(sum(listener.ends.values()) for listener in self.listeners)
        told = sum(len(listener.told) for listener in self.listeners)
        answers = ", ".join(f"{count} of {status}" for status, count in sorted(self.load.answers.items()))
        return (
            f"{len(audit.known)} jobs ({outcomes}), {audit.attempts} attempts, {dropped} duplicates dropped, "
            f"{lost} leases lost, {len(self.receiver.effects)} effects and {self.receiver.repeats} repeats refused, "
            f"{heard} ends heard by {len(self.listeners)}, told {told}, answers {answers}, "
            f"{time.monotonic() - self._began:.1f} s"
        )


def heard(listener: Listener, job_id: str) -> bool:
    return any(end.startswith(job_id) for end in listener.ends)


def environment(pool: str, receiver: Receiver) -> dict[str, str]:
    """The variables of all processes."""
    return {
        work.POOL: pool,
        work.RECEIVER: str(receiver.port),
        "GATEWAY_LOG_LEVEL": "debug",  # what is dropped is counted
        "GATEWAY_CHANNELS": json.dumps({"": {"history_size": 500_000}}),  # everything on `jobs` can be resumed
    }


@asynccontextmanager
async def job_scene(
    servers: Servers, folder: Path, *, workers: int = 3, gateway: dict[str, str] | None = None
) -> AsyncIterator[JobScene]:
    """A gateway with listeners, and workers, on servers of which Redis is empty.

    Args:
        servers: as the workers and the audit see them.
        folder: for attachments.
        workers: how many to start with.
        gateway: variables of the gateway alone: its own ways to the servers.
    """
    pool = f"p{secrets.token_hex(4)}"
    await asyncio.to_thread(forget_dead_letters, servers.amqp)  # of earlier tests
    async with Receiver() as receiver, Redis.from_url(servers.redis) as redis:
        with stack(servers.redis, servers.amqp, folder, **environment(pool, receiver)) as product:
            scene = JobScene(product, redis, pool, receiver)
            try:
                (_, scene.url), _ = await asyncio.gather(
                    asyncio.to_thread(lambda: product.gateway(ready=True, **(gateway or {}))), scene.several(workers)
                )
                scene.load = Load(scene.url)
                async with listening(scene):
                    yield scene
            finally:
                receiver.gate.set()
                # In a thread: proxies in this loop must go on while processes say goodbye.
                await asyncio.to_thread(product.stop)


@asynccontextmanager
async def listening(scene: JobScene) -> AsyncIterator[None]:
    """Have listeners on the channel `jobs`."""
    credential = token("ops", caps=[{"channels": ["jobs"], "match": "exact", "allow": ["sub", "hst"]}])
    async with Crowd([urlsplit(scene.url).port or 0], ["jobs"], credential) as crowd:
        scene.crowd = crowd
        for _ in range(LISTENERS):
            scene.listeners += [JobSocket(crowd), JobStream(crowd)]
        crowd.join(*scene.listeners)
        await crowd.ready()
        yield
