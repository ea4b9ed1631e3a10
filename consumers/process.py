"""Tasks in processes of their own: one process per attempt, so that a timeout can end it for good.

Parent and child talk over a pipe: ("progress", done, total, message), ("attach", name, data, type) answered by the
attachment or an error, and at the end ("result", JSON) or ("error", kind, type, message, after).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.connection
import os
import signal
from concurrent.futures import Executor
from typing import Any, Never, cast

import msgspec

from consumers.context import Attached, Context
from consumers.outcome import GiveUp, Retry
from consumers.registry import Task, load

Pipe = multiprocessing.connection.Connection
# Not fork: the parent has threads and an event loop. A fresh interpreter costs a fraction of a second.
_spawn = multiprocessing.get_context("spawn")


class ProcessDied(Exception):
    """The process ended without an answer: killed, out of memory, crashed."""


class RemoteError(Exception):
    """An error the task raised in its process; carries the original type's name."""


class _ChildContext:
    """The context inside the process: the same surface, over the pipe."""

    def __init__(self, pipe: Pipe, facts: dict[str, Any]) -> None:
        self._pipe = pipe
        self.cancelled = False
        self.__dict__.update(facts)

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        self._pipe.send(("progress", done, total, message))

    def attach_sync(self, name: str, data: bytes, content_type: str) -> Attached:
        self._pipe.send(("attach", name, data, content_type))
        ok, answer = self._pipe.recv()
        if not ok:
            raise GiveUp(answer)
        return cast("Attached", answer)


def _child(pipe: Pipe, module: str, name: str, facts: dict[str, Any], job_input: bytes) -> None:
    # The worker decides when to stop, not the terminal's Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        function = load(module)[name].function
        value = function(_ChildContext(pipe, facts), msgspec.json.decode(job_input))
        pipe.send(("result", msgspec.json.encode(value)))
    except BaseException as error:  # noqa: BLE001 - whatever it was, the parent records it
        kind = {GiveUp: "give-up", Retry: "retry"}.get(type(error), "error")
        pipe.send(("error", kind, type(error).__name__, str(error)[:1000], getattr(error, "after", None)))


async def run_in_process(task: Task, module: str, ctx: Context, job_input: bytes, threads: Executor) -> bytes:
    """Run an attempt in a process; returns the result as JSON. Cancelling kills the process.

    Raises:
        GiveUp, Retry, RemoteError: as the task raised.
        ProcessDied: the process ended without an answer.
    """
    ours, theirs = _spawn.Pipe()
    names = ("job_id", "type", "tenant", "run", "attempt", "max_attempts", "settings")
    facts = {name: getattr(ctx, name) for name in names}
    process = _spawn.Process(target=_child, args=(theirs, module, task.name, facts, job_input), daemon=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(threads, process.start)
    theirs.close()
    try:
        return await loop.run_in_executor(threads, _listen, ours, process, ctx)
    finally:
        # Ends the listening thread as well: the pipe breaks.
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        await asyncio.shield(asyncio.to_thread(process.join))
        process.close()


def _listen(pipe: Pipe, process: multiprocessing.process.BaseProcess, ctx: Context) -> bytes:
    with pipe:
        while True:
            try:
                kind, *rest = pipe.recv()
            except (EOFError, OSError):
                process.join()
                raise ProcessDied(f"the task's process ended with code {process.exitcode}") from None
            match kind:
                case "progress":
                    ctx.progress(*rest)
                case "attach":
                    pipe.send(_attach(ctx, *rest))
                case "result":
                    return cast("bytes", rest[0])
                case _:
                    _raise(*rest)


def _attach(ctx: Context, name: str, data: bytes, content_type: str) -> tuple[bool, Attached | str]:
    try:
        return True, ctx.attach_sync(name, data, content_type)
    except Exception as error:  # noqa: BLE001 - told to the task in the child
        return False, str(error)


def _raise(kind: str, type_name: str, message: str, after: float | None) -> Never:
    if kind == "give-up":
        raise GiveUp(message)
    if kind == "retry":
        raise Retry(message, after=after)
    raise type(type_name, (RemoteError,), {})(message)
