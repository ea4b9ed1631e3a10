"""Tasks: the functions registered for job types."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

from consumers.outcome import MAX_DELAY, USUAL, GiveUp, Policy, Retry, Snooze, encode_result
from gateway.auth.principals import DEFAULT_TENANT
from gateway.errors import ConfigurationError
from gateway.jobs.cron import Overlap, Schedule
from gateway.jobs.model import POOL, TYPE
from gateway.jobs.task_types import TaskType

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
        policy: which errors are worth another attempt, and when.
        cancel_grace: seconds a running attempt has to notice that it is cancelled, until it is stopped.
        max_running: most jobs of the type in queues and running at a time, over all workers; 0: no cap.
        schedule: when it runs by itself.
    """

    name: str
    function: Function
    pool: str
    timeout: float
    max_attempts: int
    runs_in: RunsIn
    policy: Policy = USUAL
    batch: int = 0
    window: float = 0.5
    cancel_grace: float = 0.0
    max_running: int = 0
    schedule: Schedule | None = None

    def announced(self) -> TaskType:
        """What everybody is told of it."""
        return TaskType(self.pool, self.max_attempts, self.timeout, self.max_running, self.schedule)


CANCEL_GRACE: Final = 3.0
SHORTEST: Final = 0.001
LONGEST: Final = 30 * 86_400.0
MAX_BATCH: Final = 1000
MAX_WINDOW: Final = 60.0  # seconds; the broker waits for the acknowledgements meanwhile

_tasks: dict[str, Task] = {}


def task(  # noqa: PLR0913 - one keyword for each thing a task may say of itself
    name: str,
    *,
    pool: str = "default",
    timeout: float = 300,
    max_attempts: int = 5,
    processes: bool = False,
    batch: int = 0,
    window: float = 0.5,
    retry_on: tuple[type[Exception], ...] | None = None,
    give_up_on: tuple[type[Exception], ...] = (),
    backoff: tuple[float, float] | None = None,
    cancel_grace: float = CANCEL_GRACE,
    max_running: int = 0,
    schedule: str | None = None,
    timezone: str = "UTC",
    schedule_input: object = None,
    schedule_tenant: str = DEFAULT_TENANT,
    schedule_overlap: Overlap = "skip",
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
        retry_on: the only errors worth another attempt (`Policy.retryable` has the exact order).
        give_up_on: errors that are not, whatever `retry_on` says.
        backoff: base and cap in seconds of the exponential backoff; usually 1 and 600.
        cancel_grace: seconds a running attempt has to notice `ctx.cancelled`, until it is stopped.
        max_running: most jobs of the type in queues and running at a time, over all workers; 0: no cap.
        schedule: a cron expression: a job is made each time it says so, once over all processes.
        timezone: in which it is meant, as `Europe/Berlin`.
        schedule_input: input of these jobs.
        schedule_tenant: whose they are.
        schedule_overlap: `skip` a time at which the job of the last one is still open, or `allow` both.

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
        recurs = _schedule(name, schedule, timezone, schedule_input, schedule_tenant, schedule_overlap)
        policy = Policy(retry_on, give_up_on, backoff)
        new = Task(name, function, pool, timeout, max_attempts, runs_in, policy, batch, window)
        _add(new._replace(cancel_grace=cancel_grace, max_running=max_running, schedule=recurs))
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
        "retry_on must be a tuple of exception types": not _types(new.policy.retry_on or ()),
        "give_up_on must be a tuple of exception types": not _types(new.policy.give_up_on),
        "retry_on and give_up_on cannot name Retry, Snooze or GiveUp, which always mean the same": _fixed(new.policy),
        f"backoff must be (base, cap) with 0 <= base <= cap <= {MAX_DELAY:g} seconds": not _delays(new.policy.backoff),
        f"cancel_grace must be from 0 to {LONGEST:g} seconds": not 0 <= new.cancel_grace <= LONGEST,
        "max_running must be at least 0": new.max_running < 0,
        "the name is taken": known is not None and place(known.function) != place(new.function),
    }
    for fault, found in faults.items():
        if found:
            raise _broken(new.name, fault)
    _tasks[new.name] = new


def _schedule(
    name: str, cron: str | None, timezone: str, job_input: object, tenant: str, overlap: Overlap
) -> Schedule | None:
    if cron is None:
        return None
    try:
        body = encode_result({} if job_input is None else job_input, "schedule_input").decode()
        schedule = Schedule(cron=cron, timezone=timezone, tenant=tenant, input=body, overlap=overlap)
        schedule.check()
    except (GiveUp, ConfigurationError) as error:
        raise _broken(name, str(error)) from error
    return schedule


def _types(named: object) -> bool:
    return isinstance(named, tuple) and all(isinstance(one, type) and issubclass(one, Exception) for one in named)


def _fixed(policy: Policy) -> bool:
    lists = [named for named in (policy.retry_on, policy.give_up_on) if isinstance(named, tuple)]
    return any(issubclass(one, Retry | Snooze | GiveUp) for named in lists for one in named if isinstance(one, type))


def _delays(backoff: tuple[float, float] | None) -> bool:
    return backoff is None or (len(backoff) == 2 and 0 <= backoff[0] <= backoff[1] <= MAX_DELAY)  # noqa: PLR2004 - a pair


def _broken(name: str, fault: str) -> ConfigurationError:
    return ConfigurationError(f"task {name!r}: {fault}")


def place(function: Function) -> tuple[str, str]:
    """Return where a function is written: the same place imported twice is one task."""
    return function.__module__, function.__qualname__


def load(module: str) -> dict[str, Task]:
    """Import a module and return all tasks registered by it and what it imports.

    Raises:
        ConfigurationError: there is no such module, or it registers nothing.
    """
    if not all(word.isidentifier() for word in module.split(".")):
        raise ConfigurationError(f"{module!r} is no name of a module, such as shop.tasks")
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module + ".").startswith(error.name + "."):
            raise ConfigurationError(f"there is no module {module!r}") from None
        raise
    if not _tasks:
        raise ConfigurationError(f"the module {module!r} registers no task")
    return dict(_tasks)
