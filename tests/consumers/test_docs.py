"""The examples of docs/tasks.md, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from consumers import registry
from consumers.registry import Task
from tests.consumers.support import Bench
from tests.support.waiting import eventually

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"

pytestmark = pytest.mark.usefixtures("no_backoff")


class World:
    """What the examples talk to."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.calls: list[dict[str, Any]] = []

    async def call(self, *_: Any, **named: Any) -> Any:
        self.calls.append(named)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def examples(world: World, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> dict[str, Task]:
    """The tasks of the page."""
    monkeypatch.setattr(registry, "_tasks", {})
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    speaks = SimpleNamespace(post=world.call, push=world.call, charge=world.call, write=world.call)
    names = dict.fromkeys(("http", "crm", "bank", "stock"), speaks)
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), {**names, "__name__": "page"})  # noqa: S102 - it is ours
    return {name: task._replace(pool=bench.pool) for name, task in registry._tasks.items()}


async def run(bench: Bench, task: Task, value: Any, status: str = "succeeded") -> dict[str, Any]:
    async with bench.working(task):
        return await bench.until(await bench.submit(task.name, value=value), status)


async def test_progress_and_files(bench: Bench, examples: dict[str, Task]) -> None:
    job = await run(bench, examples["report.csv"], {"rows": [1, 2]})
    assert job["result"]["rows"] == 2
    assert job["result"]["file"].endswith("/attachments/report.csv")
    assert job["progress"]["message"] == "row 2"


async def test_retries(bench: Bench, examples: dict[str, Task], world: World) -> None:
    invoice = examples["invoice.send"]
    invoice = invoice._replace(policy=invoice.policy._replace(backoff=None))
    busy = SimpleNamespace(status=429, retry_after=0)
    world.answers = [busy, ConnectionError("away"), SimpleNamespace(status=200, text="done")]
    job = await run(bench, invoice, {})
    assert (job["result"], job["attempt"]) == ("done", 3)
    for answer, type_ in (
        (SimpleNamespace(status=400, text="no"), "GiveUp"),
        (PermissionError("x"), "PermissionError"),
        (ValueError("x"), "ValueError"),
    ):
        world.answers = [answer]
        job = await run(bench, invoice, {}, "failed")
        assert (job["error"]["type"], job["attempt"]) == (type_, 1)


async def test_a_broken_dependency(bench: Bench, examples: dict[str, Task], world: World) -> None:
    world.answers = [ConnectionError("away")] * 5
    task = examples["crm.sync"]._replace(max_attempts=6)
    async with bench.working(task):
        job_id = await bench.submit(task.name)

        async def put_back() -> dict[str, Any]:
            job = await bench.job(job_id)
            return job if job["error"] and job["error"]["type"] == "BreakerOpen" else {}

        job = await eventually(put_back)
    assert (len(world.calls), job["attempt"], job["status"]) == (5, 6, "retrying")


async def test_once(bench: Bench, examples: dict[str, Task], world: World) -> None:
    world.answers = [TimeoutError("no answer"), {"id": "r1"}]
    job = await run(bench, examples["order.charge"], {"amount": 5})
    assert job["result"] == {"receipt": {"id": "r1"}}
    assert [call["idempotency_key"] for call in world.calls] == [f"{job['id']}-1-charge"] * 2


async def test_a_lock(bench: Bench, examples: dict[str, Task], world: World) -> None:
    world.answers = [7]
    job = await run(bench, examples["stock.recount"], {"shelf": "a1"})
    assert job["result"] == 7
    assert world.calls[0]["fence"] > 0


async def test_events(bench: Bench, examples: dict[str, Task]) -> None:
    job = await run(bench, examples["post.like"], {"author": "ann", "by": "bob"})
    history = await bench.channels.history("default", "user:ann", since=None, limit=10)
    assert job["result"] in history.publications[0].event.decode()
