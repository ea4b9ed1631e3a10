"""The inside of a task's process, and what it and the worker say to each other.

MessagePack over a pipe: first the job's input, then from the child `Progress`, `Attach` (answered by `Kept` or
`Refused`) and questions (answered by `Answer` or `Failure`), at the end `Result` or `Failure`. Nothing is unpickled by
the worker: the child may have been taken over by the file it was reading.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import signal
import threading
from typing import Any, Final, Literal, NoReturn

import msgspec

from consumers.asking import Question, Said, Value
from consumers.context import MAX_PROGRESS_MESSAGE, Attached, Cancelled, TaskSettings
from consumers.durable import NotDurable
from consumers.failures import Failure, error_of, failure_of
from consumers.helpers import Helpers
from consumers.outcome import USUAL, GiveUp, encode_result, printable
from consumers.registry import load
from gateway.settings import PREFIX

Pipe = multiprocessing.connection.Connection
Number = int | float

OVERHEAD: Final = 64 * 1024  # of a message around what it carries


class Progress(Said, frozen=True):
    """As `Context.progress`."""

    done: Number
    total: Number | None
    message: str | None


class Attach(Said, frozen=True):
    """As `Context.attach_sync`."""

    name: str
    data: bytes
    content_type: str


class Result(Said, frozen=True):
    """The task's result, JSON."""

    body: bytes


class Kept(Said, frozen=True):
    """The attachment is stored."""

    name: str
    size: int
    type: str
    url: str


class Refused(Said, frozen=True):
    """It is not: the job is no longer the attempt's, a rule is broken, or storing failed."""

    kind: Literal["cancelled", "rule", "failed"]
    message: str


class Answer(Said, frozen=True):
    """What the worker answers to a `Question`, if not a `Failure`."""

    value: Value


class Facts(msgspec.Struct, frozen=True):
    """What the context in the process is made of.

    Attributes:
        max_message: bytes the worker takes in one message.
    """

    job_id: str
    type: str
    tenant: str
    run: int
    attempt: int
    max_attempts: int
    settings: TaskSettings
    max_message: int


class AttachFailed(Exception):
    """The worker could not store an attachment; another attempt may."""


encode = msgspec.msgpack.Encoder().encode
_answers: msgspec.msgpack.Decoder[Kept | Refused] = msgspec.msgpack.Decoder(Kept | Refused)
_values: msgspec.msgpack.Decoder[Answer | Failure] = msgspec.msgpack.Decoder(Answer | Failure)


class ChildContext(Helpers, NotDurable):
    """The context inside the process: the same surface as `Context`, over the pipe."""

    def __init__(self, pipe: Pipe, facts: Facts) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()  # the task may have threads
        self.cancelled = False  # set by SIGTERM; who does not look at it is killed a little later
        self.job_id, self.type, self.tenant = facts.job_id, facts.type, facts.tenant
        self.run, self.attempt, self.max_attempts = facts.run, facts.attempt, facts.max_attempts
        self.settings = facts.settings

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress; see `Context.progress`."""
        self._check()
        text = None if message is None else printable(message, MAX_PROGRESS_MESSAGE)
        with self._lock:
            self._pipe.send_bytes(encode(Progress(done, total, text)))

    def attach_sync(self, name: str, data: bytes, content_type: str) -> Attached:
        """Keep a file with the job; see `Context.attach`.

        Raises:
            GiveUp: a rule is broken: the name, the media type, the size, the number.
            Cancelled: the job is no longer this attempt's.
            AttachFailed: it could not be stored.
        """
        self._check()
        limit = self.settings.max_attachment_bytes  # the pipe takes no larger message
        if len(data) > limit:
            raise GiveUp(f"an attachment may have at most {limit} bytes")
        with self._lock:
            self._pipe.send_bytes(encode(Attach(name, data, content_type)))
            answer = _answers.decode(self._pipe.recv_bytes())
        if isinstance(answer, Kept):
            return {"name": answer.name, "size": answer.size, "type": answer.type, "url": answer.url}
        raise {"cancelled": Cancelled, "rule": GiveUp, "failed": AttachFailed}[answer.kind](answer.message)

    def attach(self, *_: object, **__: object) -> NoReturn:
        """Refuse, before a coroutine is made that nobody awaits; raises GiveUp."""
        raise _not_async()

    once = publish = attach

    async def ask(self, question: Question) -> NoReturn:
        """Refuse; raises GiveUp."""
        del question
        raise _not_async()

    def _check(self) -> None:
        if self.cancelled:
            raise Cancelled

    def ask_sync(self, question: Question) -> Value:
        """Ask the worker. For the helpers."""
        with self._lock:
            self._pipe.send_bytes(encode(question))
            answer = _values.decode(self._pipe.recv_bytes())
        if isinstance(answer, Failure):
            raise error_of(answer)
        return answer.value


def _not_async() -> GiveUp:
    return GiveUp("in a task in a process use `with` and the methods whose names end in _sync")


def main(pipe: Pipe, module: str, name: str, facts: Facts) -> None:
    """Run the task: what the process does."""
    # The worker decides when to stop, not the terminal's Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _forget_secrets()
    answer: Result | Failure
    policy = USUAL
    try:
        job_input: Any = msgspec.json.decode(pipe.recv_bytes())
        task = load(module)[name]
        policy = task.policy
        ctx = ChildContext(pipe, facts)
        signal.signal(signal.SIGTERM, lambda *_: setattr(ctx, "cancelled", True))
        body = encode_result(task.function(ctx, job_input))
        if len(body) > facts.max_message - OVERHEAD:
            raise GiveUp(f"the result has {len(body)} bytes, far too many")  # noqa: TRY301 - as if the task had
        answer = Result(body)
    except BaseException as error:  # noqa: BLE001 - whatever it was, the worker records it
        answer = failure_of(error, policy)
    with contextlib.suppress(BrokenPipeError):  # the worker has gone
        pipe.send_bytes(encode(answer))


def _forget_secrets() -> None:
    """Take all our settings out of the environment, before any of the task's code is imported."""
    for variable in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[variable]
