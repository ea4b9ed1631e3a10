"""The examples of the pages about tasks, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from consumers import Context, GiveUp, registry, undos
from consumers.registry import Task
from tests.consumers.support import Bench
from tests.support.waiting import eventually

DOCS = Path(__file__).parents[2] / "docs"

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
    """The tasks of the main page."""
    speaks = SimpleNamespace(post=world.call, push=world.call, charge=world.call, write=world.call)
    return tasks_of("tasks.md", bench, monkeypatch, dict.fromkeys(("http", "crm", "bank", "stock"), speaks))


def tasks_of(page: str, bench: Bench, monkeypatch: pytest.MonkeyPatch, names: dict[str, Any]) -> dict[str, Task]:
    """Run what a page shows, with these names known; returns the tasks it registers."""
    monkeypatch.setattr(registry, "_tasks", {})
    monkeypatch.setattr(undos, "_undos", {})
    path = DOCS / page
    code = "\n".join(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))
    exec(compile(code, str(path), "exec", dont_inherit=True), {**names, "__name__": "page"})  # noqa: S102 - it is ours
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

        job = await eventually(put_back, 60.0)  # six attempts, each published by the reaper
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


class BadAddressError(Exception):
    """What the example's SMTP library raises."""


class Smtp:
    """What the example speaks to."""

    def __init__(self, _: object) -> None:
        self.sent: list[str] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sent.clear()

    async def send_message(self, letter: str) -> None:
        if "@" not in letter:
            raise BadAddressError(letter)
        self.sent.append(letter)


async def test_a_batch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"SMTP": Smtp, "letter": str, "BadAddress": BadAddressError}
    task = tasks_of("batches.md", bench, monkeypatch, names)["mail.send"]
    async with bench.working(task):
        good, bad = [await bench.submit(task.name, value=value) for value in ("ann@example.org", "nobody")]
        assert (await bench.until(good, "succeeded"))["result"] == {"sent": True}
        assert (await bench.until(bad, "failed"))["error"] == {
            "type": "GiveUp",
            "message": "nobody",
            "attempt": 1,
            "retryable": False,
        }


@pytest.mark.parametrize("ships", [True, False])
async def test_a_saga_and_its_children(
    bench: Bench, world: World, monkeypatch: pytest.MonkeyPatch, *, ships: bool
) -> None:
    async def pack(ctx: Context, job_input: Any) -> Any:
        del ctx
        return f"packed {job_input}"

    async def ship(packed: list[str]) -> None:
        if not ships:
            raise GiveUp("no courier")
        world.calls.append({"packed": packed})

    async def refund(order: str, key: str) -> None:
        world.calls.append({"refunded": order, "key": key})

    world.answers = [{"receipt": 1}]
    names = {"bank": SimpleNamespace(charge=world.call, refund=refund), "courier": SimpleNamespace(ship=ship)}
    task = tasks_of("sagas.md", bench, monkeypatch, names)["order"]
    value = {"cents": 5, "order": "o-1", "items": ["a", "b"]}
    async with bench.working(task, bench.task("order.pack", pack)):
        job = await bench.until(await bench.submit("order", value=value), "succeeded" if ships else "failed", 60.0)
    assert world.calls[0] == {"key": f"{job['id']}:1:charge"}
    if ships:
        assert (job["result"], world.calls[1]) == ({"receipt": 1}, {"packed": ["packed a", "packed b"]})
    else:
        assert (job["error"]["message"], world.calls[1]) == (
            "no courier",
            {"refunded": "o-1", "key": world.calls[0]["key"]},
        )


async def test_events(bench: Bench, examples: dict[str, Task]) -> None:
    job = await run(bench, examples["post.like"], {"author": "ann", "by": "bob"})
    history = await bench.channels.history("default", "user:ann", since=None, limit=10)
    assert job["result"] in history.publications[0].event.decode()
