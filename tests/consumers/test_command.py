"""How `consumers run` ends: what went wrong is told as a sentence, and a stuck worker makes room for another."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NoReturn

import pytest
from redis.asyncio import Redis

from consumers import __main__ as program
from consumers.worker import WorkerStuck
from gateway.errors import ConfigurationError
from tests.e2e.stack import client, stack

HOSTILE = "tests.consumers.process_tasks"


def raising(error: BaseException) -> Any:
    async def work() -> NoReturn:
        await asyncio.sleep(0)
        raise error

    return work()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ExceptionGroup("a", [ExceptionGroup("b", [ConfigurationError("the pool is odd")])]), 2),
        (ConfigurationError("the pool is odd"), 2),
        (WorkerStuck("the pool is odd"), 1),
    ],
)
def test_what_stops_the_command_is_told_as_a_sentence(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    with pytest.raises(SystemExit) as left:
        program._go(raising(error))
    assert left.value.code == code
    assert capsys.readouterr().err == "consumers: the pool is odd\n"


def test_another_error_is_not_hidden() -> None:
    with pytest.raises(ExceptionGroup):
        program._go(raising(ExceptionGroup("a", [ValueError("x")])))


async def test_a_stuck_worker_ends_its_process(redis_url: str, amqp_url: str, redis: Redis, tmp_path: Path) -> None:
    del redis  # emptied
    with stack(redis_url, amqp_url, tmp_path) as product:
        _, url = product.gateway()
        worker = product.worker("--concurrency", "1", module=HOSTILE)
        async with client(url) as http:
            answer = await http.post("/v1/jobs", json={"type": "stuck.thread"}, headers={"Prefer": "wait=30"})
        assert answer.json()["status"] == "failed"
        await asyncio.to_thread(worker.wait_for, "hold all threads")
        assert await asyncio.to_thread(worker.ended) == 1
        assert any("worker.stuck" in line for line in worker.lines)
