"""A machine that does at random whatever may happen to jobs, and knows what must hold about them after each step."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from gateway.errors import Conflict, StaleFence
from gateway.events import new_id
from gateway.jobs.document import static_json
from gateway.jobs.model import HELD, TERMINAL, TO_PUBLISH
from gateway.jobs.queue import Message
from gateway.jobs.records import Claim
from gateway.jobs.store import JobStore
from gateway.jobs.task_types import TaskType, TaskTypes
from gateway.settings import Settings
from gateway.store.redis import Store
from tests.jobs.bench import TRACE
from tests.jobs.shard import Seen, look, named

T = TypeVar("T")

TENANTS = ("a", "b")
CAPS = {"capped": 2, "narrow": 1, "free": 0}
TENANT_CAP = 3
tenants, types = st.sampled_from(TENANTS), st.sampled_from(list(CAPS))
index = st.integers(0, 1000)


class Slots(RuleBasedStateMachine):
    """Submitters, reapers, a broker, workers and an operator, one step at a time."""

    url: str
    seen: Seen

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.broker: list[Message] = []
        self.running: list[tuple[Message, Claim]] = []
        self.known: list[tuple[str, str]] = []
        self.fixed_caps = True
        self.ops = 0

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def start(self) -> None:
        self.do(self._start())

    async def _start(self) -> None:
        self.context = Store.open(Settings(redis_url=self.url))
        self.store = await self.context.__aenter__()
        client: Any = self.store.client
        await client.flushall()
        self.jobs, self.types, self.tag = JobStore(self.store), TaskTypes(self.store), self.store.tag("a")
        await self.types.register({name: TaskType("default", 9, 60, cap) for name, cap in CAPS.items()})

    @rule(tenant=tenants, name=types, priority=st.sampled_from(["critical", "default", "bulk"]))
    def submit(self, tenant: str, name: str, priority: str) -> None:
        job_id = new_id("job_")
        outcome = self.do(
            self.jobs.submit(
                tenant,
                id=job_id,
                type=name,
                priority=priority,
                static=static_json(tenant, job_id, name, None, [], priority, TRACE),
                input="{}",
                traceparent=TRACE,
                targets=[],
                max_open=1000,
                max_admitted=TENANT_CAP,
                lease_ms=60_000,
            )
        )
        self.known.append((tenant, job_id))
        if outcome.message is not None:
            self.broker.append(outcome.message)

    @rule(confirmed=st.booleans(), limit=st.integers(1, 6))
    def reap(self, confirmed: bool, limit: int) -> None:  # noqa: FBT001 - a rule's parameter
        self.do(self._reap(limit, confirmed=confirmed))

    async def _reap(self, limit: int, *, confirmed: bool) -> int:
        due = await self.jobs.due(self.tag, limit=limit, lease=60, publish=True, max_admitted=TENANT_CAP)
        assert due.failed == []
        self.broker += due.messages
        if confirmed:
            for message in due.messages:
                await self.jobs.queued(message)
        return len(due.messages)

    @precondition(lambda self: self.known)
    @rule(which=index)
    def time_passes_for(self, which: int) -> None:
        """A lease ends, a delay is over, an audit is due."""
        tenant, job_id = self.known[which % len(self.known)]
        self.do(self._make_due(tenant, job_id))

    async def _make_due(self, tenant: str, job_id: str) -> None:
        await self.store.client.zadd(self.tag + "due", {f"{tenant} {job_id}": 0}, xx=True)

    @precondition(lambda self: self.broker)
    @rule(which=index, again=st.booleans())
    def claim(self, which: int, again: bool) -> None:  # noqa: FBT001 - a rule's parameter
        message = self.broker[which % len(self.broker)]
        if not again:  # else it is delivered once more
            self.broker.remove(message)
        claim = self.do(self.jobs.claim(message, token=new_id(), lease=60, worker="w"))
        if isinstance(claim, Claim):
            self.running.append((message, claim))

    @precondition(lambda self: self.running)
    @rule(which=index, to=st.sampled_from(["succeeded", "failed", "retrying", "released", "progress"]))
    def advance(self, which: int, to: str) -> None:
        message, claim = self.running[which % len(self.running)]
        facts: dict[str, Any] = {"succeeded": {"result": "1"}, "progress": {"progress": "{}"}}.get(to, {})
        if to in {"failed", "retrying"}:
            facts = {"error": "{}", "delay_ms": 0}
        if self.do(self._advance(message, claim, to=to, **facts)) not in HELD:
            self.running.remove((message, claim))

    async def _advance(self, message: Message, claim: Claim, **facts: Any) -> str:
        self.ops += 1
        try:
            said = await self.jobs.advance(
                message.tenant, message.id, fence=claim.fence, op=self.ops, lease_ms=60_000, **facts
            )
        except StaleFence:
            return "stale"
        except Conflict:
            return "refused"
        return said[1]

    @precondition(lambda self: self.known)
    @rule(which=index)
    def cancel(self, which: int) -> None:
        tenant, job_id = self.known[which % len(self.known)]
        with contextlib.suppress(Conflict):
            self.do(self.jobs.cancel(tenant, job_id))

    @precondition(lambda self: self.known)
    @rule(which=index)
    def run_again(self, which: int) -> None:
        tenant, job_id = self.known[which % len(self.known)]
        limits: dict[str, Any] = {"max_open": 1000, "max_admitted": TENANT_CAP}
        try:
            found = self.do(self.jobs.rerun(tenant, job_id, lease=60, **limits))
        except Conflict:
            return
        if found is not None and found[1] is not None:
            self.broker.append(found[1])

    @rule(name=types, paused=st.booleans())
    def pause(self, name: str, paused: bool) -> None:  # noqa: FBT001 - a rule's parameter
        self.do(self.types.pause(name, paused=paused))

    @rule(cap=st.integers(0, 4))
    def change_cap(self, cap: int) -> None:
        self.fixed_caps = False
        self.do(self.types.register({"capped": TaskType("default", 9, 60, cap)}))

    @invariant()
    def the_sets_are_the_truth(self) -> None:
        seen = self.seen = self.do(look(self.store.client, self.tag))
        holding: dict[str, set[str]] = {}
        lanes: dict[str, set[str]] = {}
        for (tenant, job_id), job in seen.jobs.items():
            held = job.get("ap")
            if job["st"] in HELD or (job["st"] == "queued" and held != 0):
                assert held in {2, 3}, "nothing is queued or runs without its tenant's slot"
                assert held == 3 or not CAPS[job["ty"]] or not self.fixed_caps, "nor without its type's"
            if held is None:
                continue
            assert job["st"] in HELD | TO_PUBLISH | {"queued"}
            if held == 0:
                assert job["st"] not in HELD
                lanes.setdefault(f"{tenant} {job['ty']}", set()).add(job_id)
            if held in {1, 3}:
                holding.setdefault(f"t:{job['ty']}", set()).add(f"{tenant} {job_id}")
            if held in {2, 3}:
                holding.setdefault(f"n:{tenant}", set()).add(job_id)
        assert seen.members("adm:") == holding
        assert seen.members("lane:") == lanes
        self._check_rings(seen, lanes)
        self._check_caps(holding)
        crowds = {f"{tenant} {job_id}" for tenant, ids in seen.members("crowd:").items() for job_id in ids}
        assert seen.counts("crowded").total() == len(crowds)
        self._check_counts(seen, lanes)
        open_jobs = {f"{tenant} {job_id}" for (tenant, job_id), job in seen.jobs.items() if job["st"] not in TERMINAL}
        assert open_jobs <= seen.members("due")[""] | crowds

    @staticmethod
    def _check_rings(seen: Seen, lanes: dict[str, set[str]]) -> None:
        """Every lane that is not empty stands in exactly one ring, and nothing else stands in any."""
        standing: Counter[str] = Counter()
        for ring, others in seen.members("ring:").items():
            kind, name = ring.split(" ")
            standing.update(f"{other} {name}" if kind == "t" else f"{name} {other}" for other in others)
        assert standing == Counter(lanes.keys())

    @staticmethod
    def _check_counts(seen: Seen, lanes: dict[str, set[str]]) -> None:
        jobs = seen.jobs.items()
        going = [(tenant, job) for (tenant, _), job in jobs if job["st"] not in TERMINAL]
        assert seen.counts("open") == Counter(tenant for tenant, _ in going)
        assert seen.counts("open:type") == Counter(job["ty"] for _, job in going)
        waiting: Counter[str] = Counter()
        for lane, ids in lanes.items():
            waiting[lane.split(" ")[1]] += len(ids)
        assert seen.counts("waiting") == waiting
        assert seen.members("queued:").get("default", set()) == named(jobs, "queued")
        dead = {f"{tenant} {entry.split()[0]}" for tenant in TENANTS for entry in seen.members("dead:").get(tenant, ())}
        assert dead == named(jobs, "failed")
        ended = [name for (tenant, name), job in jobs if job["st"] in TERMINAL]
        assert {entry.split()[1] for entry in seen.members("ended").get("", ())} == set(ended)

    def _check_caps(self, holding: dict[str, set[str]]) -> None:
        if self.fixed_caps:
            for name, cap in CAPS.items():
                assert len(holding.get(f"t:{name}", ())) <= cap
        for tenant in TENANTS:
            assert len(holding.get(f"n:{tenant}", ())) <= TENANT_CAP

    def teardown(self) -> None:
        """Whatever was done, all jobs come to their end once nobody holds them up."""
        if hasattr(self, "store"):
            self.do(self._finish())
        self.loop.close()

    async def _finish(self) -> None:
        for name in CAPS:
            await self.types.pause(name, paused=False)
        for _ in range(20 + 3 * len(self.known)):
            while await self._reap(6, confirmed=True):
                pass
            await self._work_off()
            jobs = (await look(self.store.client, self.tag)).jobs
            left = {key: job for key, job in jobs.items() if job["st"] not in TERMINAL}
            if not left:
                break
            for (tenant, job_id), job in left.items():
                if job.get("ap") != 0 and job["st"] in {"retrying", *HELD}:  # never those who wait for a slot
                    await self._make_due(tenant, job_id)
        assert left == {}
        assert (await look(self.store.client, self.tag)).members("adm:") == {}
        await self.context.__aexit__(None, None, None)

    async def _work_off(self) -> None:
        for message in self.broker:
            claim = await self.jobs.claim(message, token=new_id(), lease=60, worker="w")
            if isinstance(claim, Claim):
                self.running.append((message, claim))
        self.broker.clear()
        for message, claim in self.running:
            await self._advance(message, claim, to="succeeded", result="1")
        self.running.clear()
