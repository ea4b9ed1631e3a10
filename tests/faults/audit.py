"""The audit after a fault: everything that was promised is read back and compared."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx

from gateway.jobs.model import EVENTS, TERMINAL, TERMINAL_EVENTS, may
from tests.e2e.clients import Event
from tests.e2e.stack import client

PAGE = 1000
READERS = 8
_ENTERED = {event: state for state, event in EVENTS.items()}


@dataclass
class Audit:
    """What was found.

    Attributes:
        wrong: whatever breaks a promise.
        ends: the ids of all terminal events.
        keys: under which the effects must have happened: job and run of every success.
        outcomes: runs by the state they ended in.
        attempts: of all jobs.
        known: jobs Redis knows.
    """

    wrong: list[str] = field(default_factory=list)
    ends: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    known: set[str] = field(default_factory=set)

    async def read(self, url: str, *, lossless: bool) -> None:
        """Read every job and its log. With `lossless` the log's beginning is checked, too."""
        async with client(url) as http:
            jobs = {job["id"]: job async for job in all_jobs(http)}
            self.known = set(jobs)
            waiting = iter(jobs.items())

            async def some() -> None:
                for job_id, job in waiting:
                    self.examine(job, await log_of(http, job_id), lossless=lossless)

            async with asyncio.TaskGroup() as group:
                for _ in range(READERS):
                    group.create_task(some())

    def examine(self, job: dict[str, Any], log: list[tuple[int, Event]], *, lossless: bool = True) -> None:
        """Check one job against its log."""
        job_id = job["id"]
        faults = [*in_order(log, lossless=lossless), *lawful(log), *ended(log)]
        if log and {name: value for name, value in log[-1][1]["data"].items() if value != job[name]}:
            faults.append("the snapshot is not what the log ends with")
        if job["status"] not in TERMINAL:
            faults.append(f"is {job['status']}")
        self.wrong += [f"{job_id}: {fault}: {told(log)}" for fault in faults]
        for _, event in log:
            self.attempts += event["type"] == "job.started"
            if event["type"] in TERMINAL_EVENTS:
                self.ends.add(event["id"])
                self.outcomes[event["data"]["status"]] += 1
                if event["type"] == "job.succeeded":
                    self.keys.add(event["data"]["result"])


def in_order(log: list[tuple[int, Event]], *, lossless: bool = True) -> Iterable[str]:
    """Offsets are 1, 2, 3 …; versions are contiguous within a run, and the event's id is the job's and the version."""
    if [offset for offset, _ in log] != list(range(1, len(log) + 1)):
        yield "the offsets have gaps"
    # Accepting has a version and no event: each run begins with one that only the answer told.
    expected = 2 if lossless or not log else log[0][1]["data"]["version"]
    run = log[0][1]["data"]["run"] if log else 1
    for _, event in log:
        data = event["data"]
        expected += data["run"] != run
        run = data["run"]
        if data["version"] != expected:
            yield f"version {data['version']} where {expected} was to come"
            expected = data["version"]
        if event["id"] != f"{data['id']}-{data['version']}":
            yield f"the event {event['id']} holds version {data['version']}"
        expected += 1


def lawful(log: list[tuple[int, Event]]) -> Iterable[str]:
    """Every step is one the state machine has; attempts and runs never go back."""
    state, before = "accepted", (1, 0)
    for number, (_, event) in enumerate(log):
        data = event["data"]
        at = (data["run"], data["attempt"])
        if at[0] == before[0] + 1:
            state = "accepted"
        if event["type"] == "job.progress":
            if data["status"] != state:
                yield f"progress of a job that is {data['status']}, and was {state}"
        elif _ENTERED.get(event["type"]) != data["status"]:
            yield f"{event['type']} says {data['status']}"
        elif number and not may(state, data["status"]):
            yield f"{data['status']} after {state}"
        if number and at < before:
            yield f"run and attempt {at} after {before}"
        state, before = data["status"], at


def ended(log: list[tuple[int, Event]]) -> Iterable[str]:
    """Every run has one terminal event, and it is its last."""
    runs: dict[int, list[str]] = {}
    for _, event in log:
        runs.setdefault(event["data"]["run"], []).append(event["type"])
    for run, types in runs.items():
        count = sum(type_ in TERMINAL_EVENTS for type_ in types)
        if count != 1:
            yield f"run {run} has {count} terminal events"
        elif types[-1] not in TERMINAL_EVENTS:
            yield f"run {run} goes on after its end"


def told(log: list[tuple[int, Event]]) -> str:
    """A log in a line."""
    return " ".join(f"{event['data']['version']}:{event['type'].removeprefix('job.')}" for _, event in log)


async def all_jobs(http: httpx.AsyncClient) -> AsyncIterator[dict[str, Any]]:
    """Every job, over all pages of the list."""
    cursor: str | None = ""
    while cursor is not None:
        answer = await http.get("/v1/jobs", params={"limit": 100, **({"cursor": cursor} if cursor else {})})
        page = answer.raise_for_status().json()
        for job in page["items"]:
            yield job
        cursor = page["next_cursor"]


async def log_of(http: httpx.AsyncClient, job_id: str) -> list[tuple[int, Event]]:
    """Offsets and events of a job's log."""
    answer = await http.get(f"/v1/jobs/{job_id}/events", params={"limit": PAGE})
    found = answer.raise_for_status().json()["events"]
    assert len(found) < PAGE, f"{job_id} has a longer log than this audit reads"
    return [(item["offset"], item["event"]) for item in found]
