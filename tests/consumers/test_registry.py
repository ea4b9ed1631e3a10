"""Registering tasks, and loading the modules that do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumers import GiveUp, Retry, registry, task
from consumers.outcome import Policy
from consumers.registry import Task, load
from gateway.errors import ConfigurationError


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    monkeypatch.setattr(registry, "_tasks", tasks)
    return tasks


class Hopeless(GiveUp):
    """A task's own."""


def plain(ctx: object, job_input: object) -> None:
    del ctx, job_input


async def asynchronous(ctx: object, job_input: object) -> None:
    del ctx, job_input


@pytest.mark.parametrize(
    ("name", "options", "fault"),
    [
        ("", {}, "the name must be words"),
        ("a b", {}, "the name must be words"),
        ("a..b", {}, "the name must be words"),
        (".a", {}, "the name must be words"),
        ("a.", {}, "the name must be words"),
        ("a\n", {}, "the name must be words"),
        ("é", {}, "the name must be words"),
        ("t", {"pool": ""}, "the pool must be"),
        ("t", {"pool": "a.b"}, "the pool must be"),
        ("t", {"pool": "*"}, "the pool must be"),
        ("t", {"pool": "x" * 65}, "the pool must be"),
        ("t", {"timeout": 0}, "timeout must be from"),
        ("t", {"timeout": -1}, "timeout must be from"),
        ("t", {"max_attempts": 0}, "max_attempts must be at least 1"),
        ("t", {"retry_on": [OSError]}, "retry_on must be a tuple of exception types"),
        ("t", {"retry_on": OSError}, "retry_on must be a tuple of exception types"),
        ("t", {"give_up_on": ("OSError",)}, "give_up_on must be a tuple of exception types"),
        ("t", {"give_up_on": (KeyboardInterrupt,)}, "give_up_on must be a tuple of exception types"),
        ("t", {"give_up_on": (Retry,)}, "always mean the same"),
        ("t", {"retry_on": (OSError, Hopeless)}, "always mean the same"),
        ("t", {"backoff": (2, 1)}, "backoff must be"),
        ("t", {"backoff": (-1, 1)}, "backoff must be"),
        ("t", {"backoff": (1, float("inf"))}, "backoff must be"),
        ("t", {"backoff": (1,)}, "backoff must be"),
        ("t", {"schedule": "* * * * *", "schedule_input": object()}, "schedule_input is not JSON"),
        ("t", {"schedule": "* * * * *", "schedule_input": "\ud800"}, "schedule_input is not JSON"),
    ],
)
def test_a_registration_that_breaks_a_rule_is_refused(
    own_registry: dict[str, Task], name: str, options: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ConfigurationError, match=fault) as raised:
        task(name, **options)(plain)
    assert repr(name) in str(raised.value)
    assert own_registry == {}


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), 0.0001])
def test_a_timeout_that_is_no_number_of_milliseconds_is_refused(timeout: float) -> None:
    with pytest.raises(ConfigurationError):
        task("t", timeout=timeout)(plain)


def test_an_async_function_cannot_run_in_a_process() -> None:
    with pytest.raises(ConfigurationError, match="an async function cannot run in a process"):
        task("t", processes=True)(asynchronous)


def test_a_name_belongs_to_one_function() -> None:
    task("t")(plain)
    with pytest.raises(ConfigurationError, match="the name is taken"):
        task("t")(asynchronous)
    task("t", timeout=5)(plain)  # the same one again: its module was imported twice


def test_functions_of_one_name_in_two_modules_are_two() -> None:
    def other(ctx: object, job_input: object) -> None:
        del ctx, job_input

    other.__qualname__ = other.__name__ = "plain"
    other.__module__ = "elsewhere"
    task("t")(plain)
    with pytest.raises(ConfigurationError, match="the name is taken"):
        task("t")(other)


def test_where_a_task_runs(own_registry: dict[str, Task]) -> None:
    assert task("loop")(asynchronous) is asynchronous
    assert task("thread")(plain) is plain
    task("process", processes=True, pool="heavy", timeout=9, max_attempts=2)(plain)
    assert {name: found.runs_in for name, found in own_registry.items()} == {
        "loop": "loop",
        "thread": "thread",
        "process": "process",
    }
    assert own_registry["process"] == Task("process", plain, "heavy", 9, 2, "process", cancel_grace=3)
    assert own_registry["loop"][2:5] == ("default", 300, 5)
    task("picky", retry_on=(OSError,), give_up_on=(FileNotFoundError,), backoff=(0, 5))(plain)
    assert own_registry["picky"].policy == Policy((OSError,), (FileNotFoundError,), (0, 5))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package on the path, forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "sample_tasks"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "sample_tasks"]:
        del sys.modules[name]


def test_loading_gives_the_tasks_of_a_module(package: Path) -> None:
    code = "from consumers import task\n@task('a.b')\ndef ab(ctx, job_input): return 1\n"
    (package / "good.py").write_text(code)
    loaded = load("sample_tasks.good")
    assert list(loaded) == ["a.b"]
    loaded.clear()
    assert list(load("sample_tasks.good")) == ["a.b"]


@pytest.mark.parametrize("name", ["nowhere_to_be_found", "sample_tasks.missing", "nowhere_to_be_found.deeper"])
def test_a_module_that_is_missing_is_told(package: Path, name: str) -> None:
    del package
    with pytest.raises(ConfigurationError, match=f"there is no module '{name}'"):
        load(name)


def test_a_module_without_tasks_is_told(package: Path) -> None:
    del package
    with pytest.raises(ConfigurationError, match="registers no task"):
        load("sample_tasks")


def test_an_import_that_fails_inside_a_module_shows_itself(package: Path) -> None:
    (package / "broken.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        load("sample_tasks.broken")
