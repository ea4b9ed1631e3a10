"""The audit of the fault runs notices what it is there to notice."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.clients import Event
from tests.faults.audit import Audit, ended, in_order, lawful
from tests.faults.listeners import JobSocket, JobStream
from tests.faults.subscribers import Crowd

JOB = "job_1"
WELL = "1.1 queued, 1.1 running, 1.1 progress:running, 1.1 succeeded"
RETRIED = "1.1 queued, 1.1 running, 1.2 retrying, 1.2 queued, 1.2 running, 1.2 succeeded"
AGAIN = f"{WELL}, 2.1 queued, 2.1 running, 2.1 failed"


def log_of(story: str) -> list[tuple[int, Event]]:
    """A log from '<run>.<attempt> <state>' and '<run>.<attempt> <event>:<state>'; offsets and versions fit."""
    log: list[tuple[int, Event]] = []
    version, before = 1, 1
    for offset, step in enumerate(story.split(", "), 1):
        at, _, said = step.partition(" ")
        run, attempt = map(int, at.split("."))
        kind, _, state = said.rpartition(":")
        version += 1 + (run != before)
        before = run
        type_ = f"job.{kind or {'running': 'started'}.get(state, state)}"
        data = {"id": JOB, "run": run, "attempt": attempt, "status": state, "version": version, "result": f"{run}"}
        log.append((offset, {"id": f"{JOB}-{version}", "type": type_, "data": data}))
    return log


@pytest.mark.parametrize("story", [WELL, RETRIED, AGAIN])
def test_a_good_story_passes_and_is_counted(story: str) -> None:
    log = log_of(story)
    audit = Audit()
    audit.examine(log[-1][1]["data"], log)
    assert not audit.wrong
    assert audit.attempts == story.count("running") - story.count(":running")
    assert audit.outcomes.total() == story.count("succeeded") + story.count("failed") == len(audit.ends)
    assert len(audit.keys) == story.count("succeeded")


@pytest.mark.parametrize(
    "story",
    [
        "1.1 queued, 1.1 running",
        f"{WELL}, 1.1 succeeded",
        f"{WELL}, 1.1 failed",
        f"{WELL}, 1.1 queued, 1.1 running, 1.1 succeeded",
        "1.1 queued, 1.1 running, 2.1 queued, 2.1 running, 2.1 succeeded",
    ],
)
def test_runs_that_do_not_end_once(story: str) -> None:
    assert list(ended(log_of(story)))


@pytest.mark.parametrize(
    "story",
    [
        "1.1 queued, 1.1 succeeded",
        "1.1 queued, 1.1 running, 1.1 running, 1.1 succeeded",
        "1.1 queued, 1.1 progress:running, 1.1 running, 1.1 succeeded",
        "1.1 queued, 1.2 running, 1.1 succeeded",
        "1.1 queued, 1.1 running, 1.1 queued:running, 1.1 succeeded",
    ],
)
def test_steps_the_state_machine_does_not_have(story: str) -> None:
    assert list(lawful(log_of(story)))


def spoilt(**changes: Any) -> list[tuple[int, Event]]:
    log = log_of(WELL)
    offset, event = log[2]
    data = event["data"] | {name: value for name, value in changes.items() if name == "version"}
    event = event | {"id": changes.get("id", f"{JOB}-{data['version']}"), "data": data}
    log[2] = (changes.get("offset", offset), event)
    return log


@pytest.mark.parametrize("changes", [{"offset": 4}, {"version": 5}, {"version": 3}, {"id": "job_2-4"}])
def test_offsets_versions_and_ids_that_do_not_fit(changes: dict[str, Any]) -> None:
    assert not list(in_order(spoilt()))
    assert list(in_order(spoilt(**changes)))


def test_a_log_that_does_not_begin_at_the_beginning_passes_only_where_redis_forgot() -> None:
    log = log_of(RETRIED)[1:]
    assert list(in_order(log))
    log = [(offset - 1, event) for offset, event in log]
    assert list(in_order(log))
    assert not list(in_order(log, lossless=False))


def test_a_snapshot_that_is_not_the_logs_end() -> None:
    log = log_of(WELL)
    audit = Audit()
    audit.examine({**log[-1][1]["data"], "status": "failed"}, log)
    audit.examine(log[1][1]["data"], log[:2])
    assert any("snapshot" in fault for fault in audit.wrong)
    assert any("is running" in fault for fault in audit.wrong)


def event_of(version: int, type_: str = "job.succeeded") -> Event:
    return {"id": f"{JOB}-{version}", "type": type_}


def test_a_listener_knows_what_came_twice_and_what_it_was_told() -> None:
    listener = JobStream(Crowd([], ["jobs"]))
    for version in (1, 2, 1):
        listener.see(listener.number_of(event_of(version)))
    assert listener.repeats() == [f"{JOB}-1"]
    assert listener.ends == {f"{JOB}-1": 2, f"{JOB}-2": 1}
    listener.tell("reset")
    listener.see(listener.number_of(event_of(2)))
    assert listener.repeats() == [f"{JOB}-1"]


def test_a_listener_counts_what_did_not_come_and_what_was_said_to_be_left_out() -> None:
    listener = JobSocket(Crowd([], ["jobs"]), ("e", 0))
    listener._publication({"offset": 1, "data": event_of(1)})
    listener._publication({"offset": 4, "data": event_of(2), "tags": {"skipped": "1"}})
    assert (listener.missing, listener.skipped) == (2, 1)
    listener._publication({"offset": 4, "data": event_of(3)})
    assert listener.wrong == ["offset 4 after 4"]
