"""Tasks: the functions registered for job types."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

from gateway.errors import ConfigurationError
from gateway.jobs.model import POOL, TYPE

Function = Callable[..., Any]
RunsIn = Literal["loop", "thread", "process"]


class Task(NamedTuple):
    """A registered task.

    Attributes:
        name: the job type.
        function: called with the context and the job's input.
        pool: the queues and workers it belongs to.
        timeout: seconds an attempt may take.
        max_attempts: unless the submitter says otherwise.
        runs_in: the event loop (async functions), a thread, or a process of its own.
        batch: how many jobs one call gets at most; 0: one job a call, the usual way.
        window: seconds a batch waits for more jobs after its first.
    """

    name: str
    function: Function
    pool: str
    timeout: float
    max_attempts: int
    runs_in: RunsIn
    batch: int = 0
    window: float = 0.5


SHORTEST: Final = 0.001
LONGEST: Final = 30 * 86_400.0
MAX_BATCH: Final = 1000
MAX_WINDOW: Final = 60.0  # seconds; the broker waits for the acknowledgements meanwhile

_tasks: dict[str, Task] = {}


def task(
    name: str,
    *,
    pool: str = "default",
    timeout: float = 300,
    max_attempts: int = 5,
    processes: bool = False,
    batch: int = 0,
    window: float = 0.5,
) -> Callable[[Function], Function]:
    """Register a function for a job type.

    An async function runs in the worker's event loop, a plain one in a thread, or with `processes=True` in a
    process of its own (which a timeout can kill). It is called with the context and the job's input, or with `batch`
    with a `Batch` of jobs.

    Args:
        name: the job type: words of A-Z a-z 0-9 _ - joined by dots.
        pool: which workers run it.
        timeout: seconds an attempt may take.
        max_attempts: tries until the job is dead.
        processes: run it in a process.
        batch: call it with up to so many jobs at once; 0 means one by one.
        window: seconds a batch waits for more jobs after its first.

    Raises:
        ConfigurationError: the registration breaks a rule, or the name is taken.
    """

    def register(function: Function) -> Function:
        runs_in: RunsIn = "process" if processes else "thread"
        if inspect.iscoroutinefunction(function):
            if processes:
                raise _broken(name, "an async function cannot run in a process")
            runs_in = "loop"
        if batch and processes:
            raise _broken(name, "a batch cannot run in a process")
        _add(Task(name, function, pool, timeout, max_attempts, runs_in, batch, window))
        return function

    return register


def _add(new: Task) -> None:
    known = _tasks.get(new.name)
    faults = {
        "the name must be words of A-Z a-z 0-9 _ - joined by dots": not TYPE.match(new.name),
        "the pool must be 1 to 64 characters of A-Z a-z 0-9 _ -": not POOL.match(new.pool),
        f"timeout must be from {SHORTEST:g} to {LONGEST:g} seconds": not SHORTEST <= new.timeout <= LONGEST,
        "max_attempts must be at least 1": new.max_attempts < 1,
        f"batch must be from 0 to {MAX_BATCH}": not 0 <= new.batch <= MAX_BATCH,
        f"window must be from {SHORTEST:g} to {MAX_WINDOW:g} seconds": not SHORTEST <= new.window <= MAX_WINDOW,
        "the name is taken": known is not None and _place(known.function) != _place(new.function),
    }
    for fault, found in faults.items():
        if found:
            raise _broken(new.name, fault)
    _tasks[new.name] = new


def _broken(name: str, fault: str) -> ConfigurationError:
    return ConfigurationError(f"task {name!r}: {fault}")


def _place(function: Function) -> tuple[str, str]:
    """Where a function is written: the same place imported twice is one task."""
    return function.__module__, function.__qualname__


def load(module: str) -> dict[str, Task]:
    """Import a module and return all tasks registered by it and what it imports.

    Raises:
        ConfigurationError: there is no such module, or it registers nothing.
    """
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module + ".").startswith(error.name + "."):
            raise ConfigurationError(f"there is no module {module!r}") from None
        raise
    if not _tasks:
        raise ConfigurationError(f"the module {module!r} registers no task")
    return dict(_tasks)
