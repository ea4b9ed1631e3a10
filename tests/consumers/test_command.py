"""How `consumers run` ends: what went wrong is told as a sentence, and a stuck worker makes room for another."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner
from redis.asyncio import Redis

from consumers import __main__ as program
from consumers import registry
from consumers.celery import CeleryBridge
from consumers.relay import Relay
from consumers.worker import Worker, WorkerStuck
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


PASSWORD = "amqp://user:hunter2/x@127.0.0.1/"  # not percent-encoded: what is before the / would be a port


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["run", ""], {}, "'' is no name of a module"),
        (["run", "..tasks"], {}, "'..tasks' is no name of a module"),
        (["run", "shop/tasks.py"], {}, "'shop/tasks.py' is no name of a module"),
        (["run", "no_such_module"], {}, "there is no module 'no_such_module'"),
        (["run", HOSTILE, "--grace", "nan"], {}, "'nan' is no number of seconds"),
        (["run", HOSTILE, "--grace", "-1"], {}, "-1.0 is not in the range"),
        (["run", HOSTILE, "--concurrency", "0"], {}, "0 is not in the range"),
        (["run", HOSTILE], {"AMQP_URL": "memory://"}, "set GATEWAY_AMQP_URL to a broker"),
        (["run", HOSTILE], {"AMQP_URL": PASSWORD}, "GATEWAY_AMQP_URL is no address"),
        (["run", HOSTILE], {"REDIS_URL": "redis://:hunter2/x@127.0.0.1"}, "GATEWAY_REDIS_URL: write / ?"),
        (["run", HOSTILE], {"NOPE": "1"}, "GATEWAY_NOPE is not a setting"),
        (["relay"], {"AMQP_URL": "memory://"}, "set GATEWAY_AMQP_URL to a broker"),
        (["relay"], {"AMQP_URL": PASSWORD}, "GATEWAY_AMQP_URL is no address"),
        (["celery"], {}, "Missing option '--broker'"),
        (["celery", "--broker", "redis://x"], {}, "--broker must start with amqp:// or amqps://"),
        (["celery", "--broker", PASSWORD], {}, "--broker is no address"),
        (["celery", "--broker", "amqp://x", "--silence", "0"], {}, "0.0 is not in the range"),
        (["celery", "--broker", "amqp://x", "--results", "redis://:hunter2/x@y"], {}, "--results is no address"),
        (["celery", "--broker", "amqp://x", "--results", "redis://x/?db=hunter2"], {}, "--results is not the address"),
    ],
)
def test_what_is_wrong_with_a_command_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], variables: dict[str, str], said: str
) -> None:
    for name, value in {"REDIS_URL": "redis://127.0.0.1:1", **variables}.items():
        monkeypatch.setenv(f"GATEWAY_{name}", value)
    for what in (Worker, Relay, CeleryBridge):
        monkeypatch.setattr(what, "run", started)  # else one that starts by mistake would wait for Redis for ever
    ended = CliRunner().invoke(program.main, arguments)
    assert ended.exit_code == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.output


async def started(what: object) -> None:
    raise AssertionError(f"{what} has started")


def test_a_module_without_tasks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_tasks", {})  # other tests have registered some in this process
    monkeypatch.setattr(Worker, "run", started)
    ended = CliRunner().invoke(program.main, ["run", "json"])
    assert (ended.exit_code, "the module 'json' registers no task" in ended.stderr) == (2, True)


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
