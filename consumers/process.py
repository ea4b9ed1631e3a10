"""Tasks in processes of their own: one process per attempt, so that a timeout can end it for good."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import threading
from typing import Final, cast

import msgspec
import structlog

from consumers.asking import Question
from consumers.child import (
    OVERHEAD,
    Answer,
    Attach,
    Facts,
    Kept,
    Pipe,
    Progress,
    Refused,
    Result,
    encode,
    main,
)
from consumers.context import Cancelled, Context
from consumers.failures import Failure, error_of, failure_of
from consumers.outcome import USUAL, ProcessDied, printable
from consumers.registry import Task
from consumers.threads import start_thread
from gateway.errors import FilesUnavailable, GatewayError

log = structlog.get_logger(__name__)

EXIT_LIMIT: Final = 5.0  # seconds for a process to be gone: after its last word, and after SIGKILL

# Not fork: the parent has threads and an event loop. A fresh interpreter costs a fraction of a second.
_spawn = multiprocessing.get_context("spawn")
# Starting a process also reaps others of ours that have ended: never while one is being killed or joined.
_lock = threading.Lock()
_messages: msgspec.msgpack.Decoder[Progress | Attach | Question | Result | Failure] = msgspec.msgpack.Decoder(
    Progress | Attach | Question | Result | Failure
)


async def run_in_process(task: Task, module: str, ctx: Context, job_input: bytes, *, max_result: int = 0) -> bytes:
    """Run an attempt in a process; returns the result as JSON. Cancelling kills the process.

    A cancelled context only asks it to end, by SIGTERM, which sets the task's `ctx.cancelled`.

    Args:
        task: what to run.
        module: imported by the process; registers the task.
        ctx: the attempt's.
        job_input: JSON.
        max_result: bytes a result may have, if more than an attachment.

    Raises:
        GiveUp, Retry, Snooze, RemoteError: as the task raised.
        ProcessDied: the process ended without an answer.
    """
    process = _Process(task, module, ctx, max(max_result, ctx.settings.max_attachment_bytes) + OVERHEAD)
    running = start_thread(process.run, job_input)
    ctx.on_cancel(process.ask)
    try:
        return cast("bytes", (await asyncio.shield(running)).result())
    except asyncio.CancelledError:
        start_thread(process.kill)
        await asyncio.wait([running], timeout=EXIT_LIMIT)
        raise


class _Process:
    """One process from start to end. `run` has a thread of its own, which alone starts, reads, joins and closes."""

    def __init__(self, task: Task, module: str, ctx: Context, max_message: int) -> None:
        self._task = task
        self._module = module
        self._ctx = ctx
        self._max_message = max_message
        self._process: multiprocessing.process.BaseProcess | None = None
        self._unwanted = False

    def kill(self) -> None:
        """End it, from any thread, even before it has been started."""
        with _lock:
            self._unwanted = True
            self._kill()

    def ask(self) -> None:
        """Ask it to end. What is still starting ends by the signal itself."""
        start_thread(self._ask)  # somebody who starts or joins one may hold the lock

    def _ask(self) -> None:
        with _lock:
            if self._process is None:
                self._unwanted = True  # it is not even started
            elif self._process.is_alive():
                self._process.terminate()

    def run(self, job_input: bytes) -> bytes:
        ours = self._start()
        answer, why, patience = None, "", 0.0
        try:
            answer = self._talk(ours, job_input)
        except (EOFError, OSError):
            patience = EXIT_LIMIT  # it is ending by itself, with a code that tells something
        except msgspec.DecodeError as error:
            why = f" after a message that cannot be read: {error}"
        finally:
            ours.close()
            code = self._end(patience)
        if isinstance(answer, Result):
            return answer.body
        if isinstance(answer, Failure):
            raise error_of(answer)
        raise ProcessDied(f"the task's process ended with code {code}{why}")

    def _start(self) -> Pipe:
        ours, theirs = _spawn.Pipe()
        try:
            with _lock:
                if self._unwanted:
                    raise Cancelled  # noqa: TRY301 - both pipe ends are closed below
                arguments = (theirs, self._module, self._task.name, self._facts())
                process = _spawn.Process(target=main, args=arguments, daemon=True)
                process.start()
                self._process = process
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def _facts(self) -> Facts:
        names = (name for name in Facts.__struct_fields__ if name != "max_message")
        return Facts(**{name: getattr(self._ctx, name) for name in names}, max_message=self._max_message)

    def _talk(self, pipe: Pipe, job_input: bytes) -> Result | Failure:
        pipe.send_bytes(job_input)
        while True:
            message = _messages.decode(pipe.recv_bytes(self._max_message))
            if isinstance(message, Progress):
                with contextlib.suppress(Cancelled):  # it will hear of it by itself
                    self._ctx.progress(message.done, message.total, message.message)
            elif isinstance(message, Attach):
                pipe.send_bytes(encode(_attach(self._ctx, message)))
            elif isinstance(message, Question):
                pipe.send_bytes(encode(_answer(self._ctx, message)))
            else:
                return message

    def _end(self, patience: float) -> int | None:
        """See to it that the process is gone; returns its exit code."""
        process = self._process
        if process is None:
            return None
        if patience:
            multiprocessing.connection.wait([process.sentinel], patience)
        with _lock:
            self._kill()
        multiprocessing.connection.wait([process.sentinel], EXIT_LIMIT)
        with _lock:
            process.join(1.0)
            code = process.exitcode
            self._process = None
            with contextlib.suppress(
                ValueError
            ):  # not even SIGKILL ended it (a hanging disk); it is left to the system
                process.close()
        return code

    def _kill(self) -> None:
        if self._process is not None and self._process.is_alive():
            self._process.kill()


def _attach(ctx: Context, asked: Attach) -> Kept | Refused:
    try:
        return Kept(**ctx.attach_sync(asked.name, asked.data, asked.content_type))
    except Cancelled as error:
        return Refused("cancelled", str(error))
    except FilesUnavailable as error:
        return Refused("failed", str(error))
    except GatewayError as error:
        return Refused("rule", "; ".join([str(error), *(f"{at}: {rule}" for at, rule in error.errors)]))
    except Exception as error:
        log.exception("attempt.attach_failed", job_id=ctx.job_id)
        return Refused("failed", printable(str(error)))


def _answer(ctx: Context, question: Question) -> Answer | Failure:
    try:
        return Answer(ctx.ask_sync(question))
    except Exception as error:  # noqa: BLE001 - whatever it was, the task shall hear of it
        return failure_of(error, USUAL)
