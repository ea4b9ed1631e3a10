"""The slots of the caps against the truth: whatever happens, in any order, the sets are exactly the admitted jobs."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from gateway.errors import Conflict, StaleFence
from gateway.events import new_id
from gateway.jobs.document import static_json
from gateway.jobs.model import TERMINAL
from gateway.jobs.records import Holder
from gateway.jobs.sagas import JobCancelled, SagaStore
from tests.jobs.bench import TRACE
from tests.jobs.slot_machine import Slots, index, types


class Families(Slots):
    """Also with children that are waited for and steps that are undone."""

    def _holder(self, which: int) -> Holder:
        message, claim = self.running[which % len(self.running)]
        return Holder.of(message.tenant, message.id, claim)

    @precondition(lambda self: self.running)
    @rule(which=index, name=types, child=st.sampled_from("xyz"))
    def spawn(self, which: int, name: str, child: str) -> None:
        holder, job_id = self._holder(which), new_id("job_")
        arguments: dict[str, object] = {
            "id": job_id,
            "type": name,
            "priority": "default",
            "static": static_json(holder.tenant, job_id, name, None, [], "default", TRACE),
            "input": "{}",
            "traceparent": TRACE,
            "targets": [],
            "max_open": 1000,
            "max_admitted": 3,
            "lease_ms": 0,
        }
        with contextlib.suppress(StaleFence, Conflict, JobCancelled):
            known, _ = self.do(SagaStore(self.jobs).spawn(holder, child, arguments))
            if known == job_id:
                self.known.append((holder.tenant, job_id))

    @precondition(lambda self: self.running)
    @rule(which=index, fail_fast=st.booleans(), wait_ms=st.sampled_from([0, 3_600_000]))
    def wait(self, which: int, fail_fast: bool, wait_ms: int) -> None:  # noqa: FBT001 - a rule's parameter
        message, claim = self.running[which % len(self.running)]
        children = self.seen.jobs[message.tenant, message.id].get("cn")
        if not children:
            return
        numbers = list(range(1, children[0] + 1))
        facts: dict[str, Any] = {"children": numbers, "gather": 1, "fail_fast": fail_fast, "wait_ms": wait_ms}
        self.do(self._advance(message, claim, to="waiting", **facts))

    @precondition(lambda self: self.running)
    @rule(which=index, to=st.sampled_from(["started", "done", "undoing", "undone"]))
    def step(self, which: int, to: str) -> None:
        facts = {"undo": "u"} if to == "started" else {}
        with contextlib.suppress(StaleFence, Conflict, JobCancelled):
            self.do(SagaStore(self.jobs).step(self._holder(which), "s", to, **facts))

    @precondition(lambda self: self.running)
    @rule(which=index)
    def undo(self, which: int) -> None:
        for to in ("undoing", "undone"):
            self.step(which, to)
        message, claim = self.running[which % len(self.running)]
        self.do(self._advance(message, claim, to="compensated"))

    @invariant()
    def the_sets_are_the_truth(self) -> None:
        super().the_sets_are_the_truth()
        jobs = self.seen.jobs
        children: Counter[tuple[str, str, int]] = Counter()
        for (tenant, _), job in jobs.items():
            if job.get("pa") and job["st"] not in TERMINAL:
                children[tenant, job["pa"][0], job["pa"][2]] += 1
        for (tenant, job_id), job in jobs.items():
            if job.get("cn") and job["st"] not in TERMINAL:
                assert job["cn"][1] == children[tenant, job_id, job["rn"]]
            if job.get("cw") and job["st"] == "waiting":
                assert job["cw"]["left"] <= job["cn"][1]


@pytest.mark.parametrize("machine", [Slots, Families])
def test_the_slots_are_the_truth_and_everybody_gets_one(
    machine: type[Slots], redis_url: str, redis_server: object
) -> None:
    del redis_server
    # Without shrinking: each step is several round trips, and times differ from run to run.
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        type("Machine", (machine,), {"url": redis_url}),
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=checks,
            phases=[Phase.generate],
        ),
    )
