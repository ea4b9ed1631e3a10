"""What Celery's workers tell of their tasks, as changes of jobs. Pure.

Source: Celery's user guide, "Monitoring and Management Guide", event reference; `celery.worker.request`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from consumers.context import progress_json
from consumers.outcome import MAX_MESSAGE, GiveUp, encode_result, printable
from gateway.errors import BadRequest
from gateway.jobs.foreign import Change
from gateway.web.decoding import compact

MAX_NAME: Final = 100
MAX_RETRIES: Final = 1_000_000  # what is shown of more
MAX_ARGUMENTS: Final = 4096  # characters; Celery cuts them at about 1,024 each
MAX_REPR: Final = 64 * 1024  # characters of a result; Celery cuts it likewise
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}\Z")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
_REPR_OF_ERROR = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*)\((.*)\)\Z", re.DOTALL)
# Meta of `update_state`, as the guides of Celery, celery-progress and Flower's users spell it.
_DONE: Final = ("current", "done", "completed", "processed", "progress")
_TOTAL: Final = ("total", "all")
_TEXT: Final = ("message", "status", "description", "detail")
_TOLD: Final = frozenset(
    f"task-{word}" for word in ("sent", "received", "started", "succeeded", "failed", "retried", "revoked", "rejected")
)
# What a backend says besides the states of one's own: these come as events.
_BUILT_IN: Final = frozenset({"PENDING", "RECEIVED", "STARTED", "RETRY", "REVOKED", "REJECTED", "IGNORED"})


class Unreadable(Exception):
    """A message is no event of Celery's."""


class _Head(msgspec.Struct, frozen=True):
    """What says whether an event is for us: an application may send its own, with fields of any kind."""

    type: str
    uuid: Any = None


class TaskEvent(msgspec.Struct, frozen=True):
    """One event of a task; what is not of its type is None or empty.

    Attributes:
        type: `task-sent`, `task-received`, …
        uuid: the task's id.
        hostname: the node that tells it.
        clock: the sender's logical clock.
        pid: the process that tells it.
        retries: how often it was retried, with sent and received.
        result: Python's repr of it, cut.
        exception: likewise.
        requeue: of a rejected one: it comes again.
        expired: of a revoked one: it was too late.
    """

    type: str
    uuid: str = ""
    hostname: str | None = None
    clock: int | float | None = None
    pid: int | None = None
    name: str | None = None
    args: str | None = None
    kwargs: str | None = None
    retries: int | None = None
    root_id: str | None = None
    result: str | None = None
    exception: str | None = None
    requeue: bool | None = None
    expired: bool | None = None


class ResultMeta(msgspec.Struct, frozen=True):
    """What the Redis result backend stores and publishes of a task."""

    status: str
    task_id: str = ""
    result: msgspec.Raw = msgspec.Raw(b"null")


_head: Final = msgspec.json.Decoder(_Head)
_list: Final = msgspec.json.Decoder(list[msgspec.Raw])
_event: Final = msgspec.json.Decoder(TaskEvent, strict=False)
_meta: Final = msgspec.json.Decoder(ResultMeta)


def read(body: bytes, content_type: str) -> list[TaskEvent]:
    """Read a message of the exchange `celeryev`: an event, or a list of them (`task.multi`). Others' are left out.

    Raises:
        Unreadable: it is not JSON (pickle is never loaded), or not an event.
    """
    if content_type.partition(";")[0].strip() != "application/json":
        raise Unreadable(f"the content type is {content_type[:100]!r}, not application/json")
    try:
        document = compact(body)
        parts = _list.decode(document) if document.startswith(b"[") else [msgspec.Raw(document)]
        return [_event.decode(part) for part in parts if _is_told(_head.decode(part))]
    except BadRequest as error:
        raise Unreadable(error.detail) from None
    except msgspec.ValidationError as error:
        raise Unreadable(str(error)) from None


def _is_told(head: _Head) -> bool:
    return head.type in _TOLD and isinstance(head.uuid, str) and _ID.match(head.uuid) is not None


def change_of(event: TaskEvent) -> Change:
    """Say what an event means for the job."""
    worker = msgspec.json.encode((event.hostname or "")[:200]).decode()
    by = f"{event.hostname}:{event.pid}:{event.clock}"[:300]
    match event.type:
        case "task-sent" | "task-received":
            change = Change("queued", attempt=min(max(event.retries or 0, 0), MAX_RETRIES) + 1)
        case "task-started":
            change = Change("running", worker=worker, by=by)
        case "task-succeeded":
            change = Change("succeeded", worker=worker, result=repr_json(event.result))
        case "task-failed":
            change = Change("failed", worker=worker, error=_error(event.exception, retryable=False))
        case "task-retried":
            change = Change("retrying", worker=worker, error=_error(event.exception, retryable=True))
        case "task-revoked":
            change = Change("expired" if event.expired else "cancelled")
        case "task-rejected" if event.requeue:
            change = Change("requeued")
        case _:  # "task-rejected"
            change = Change("failed", error=_error("Rejected('the task rejected its message')", retryable=False))
    return change


def of_result(message: bytes) -> tuple[str, Change] | None:
    """Read what the result backend published; returns the task's id and the change, or None if it means nothing.

    A result is the whole one here, where the event has a cut repr.
    """
    try:
        meta = _meta.decode(compact(message))
    except (BadRequest, msgspec.ValidationError):
        return None
    if not _ID.match(meta.task_id) or meta.status in _BUILT_IN:
        return None
    if meta.status == "SUCCESS":
        return meta.task_id, Change("succeeded", result=bytes(meta.result).decode())
    if meta.status == "FAILURE":
        return meta.task_id, Change("failed", error=_stored_error(meta.result))
    progress = progress_of(meta.status, meta.result)
    return (meta.task_id, Change("progress", progress=progress)) if progress else None


def progress_of(state: str, meta: msgspec.Raw) -> str | None:
    """Read the meta of `update_state`; None when it is not a table.

    `{"current": 3, "total": 10}` and its other spellings are a progress; without numbers the state itself is told.
    """
    try:
        fields = msgspec.json.decode(meta, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    done, total = _number(fields, _DONE), _number(fields, _TOTAL)
    percent = _number(fields, ("percent", "percentage"))
    if done is None and percent is not None:
        done, total = percent, 100.0
    text = next((str(fields[name]) for name in _TEXT if isinstance(fields.get(name), str | int | float)), None)
    return progress_json(done or 0, total, text if text is not None else state)


def _number(fields: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    for name in names:
        value = fields.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53:
            return value
    return None


def type_of(name: str) -> str:
    """Return the job type of a task name: what is not allowed in one becomes `_`."""
    words = [_NOT_IN_NAMES.sub("_", word) for word in name.split(".")]
    return ".".join(word for word in words if word)[:MAX_NAME].strip(".") or "task"


def trace_of(event: TaskEvent) -> str:
    """Return a W3C traceparent: tasks that one request started (the same `root_id`) are one trace."""
    trace, span = (_hex(event.root_id or event.uuid), _hex(event.uuid))
    return f"00-{trace}-{span[:16]}-01"


def _hex(text: str) -> str:
    digits = "".join(character for character in text.lower() if character in "0123456789abcdef")[:32].rjust(32, "0")
    return digits if digits.strip("0") and digits[:16].strip("0") else "1" * 16 + digits[16:]


def arguments_of(event: TaskEvent) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return the task's arguments; None where their repr is cut or holds what is no literal."""
    args, kwargs = _literal(event.args or "()"), _literal(event.kwargs or "{}")
    if not isinstance(args, tuple | list) or not isinstance(kwargs, dict):
        return None
    return tuple(args), {str(name): value for name, value in kwargs.items()}


def input_of(event: TaskEvent) -> str:
    """Write the arguments as JSON: their values, or their reprs where those cannot be had."""
    found = arguments_of(event)
    if found is not None:
        try:
            return encode_result({"args": found[0], "kwargs": found[1]}).decode()
        except GiveUp:
            pass  # a literal JSON does not know, such as a complex number
    reprs = {
        "args": printable(event.args or "()", MAX_ARGUMENTS),
        "kwargs": printable(event.kwargs or "{}", MAX_ARGUMENTS),
    }
    return msgspec.json.encode(reprs).decode()


def repr_json(text: str | None) -> str:
    """Write the value a repr stands for as JSON, or the repr itself."""
    value = _literal(text or "None")
    try:
        return encode_result(printable(text or "", MAX_REPR) if value is _UNKNOWN else value).decode()
    except GiveUp:
        return msgspec.json.encode(printable(text or "")).decode()


_UNKNOWN: Final = object()


def _literal(text: str) -> object:
    if len(text) > MAX_ARGUMENTS:
        return _UNKNOWN
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return _UNKNOWN


def _error(text: str | None, *, retryable: bool) -> str:
    """Write an error from its repr, `ValueError('no luck')`, as a job's: {type, message, attempt, retryable}."""
    found = _REPR_OF_ERROR.match(text or "")
    if found is None:
        return _error_json("TaskFailed", text or "", retryable=retryable)
    message = _literal(found[2].rstrip(","))
    return _error_json(found[1], found[2] if message is _UNKNOWN else str(message), retryable=retryable)


def _stored_error(result: msgspec.Raw) -> str:
    try:
        fields = msgspec.json.decode(result, type=dict[str, Any])
    except msgspec.DecodeError:
        fields = {}
    message = fields.get("exc_message", "")
    if isinstance(message, list):
        message = ", ".join(str(part) for part in message)
    return _error_json(str(fields.get("exc_type", "TaskFailed")), str(message), retryable=False)


def _error_json(kind: str, message: str, *, retryable: bool) -> str:
    """Write all but the attempt, which the script knows: `{…` without the closing brace."""
    fields = {"type": printable(kind, 100), "message": printable(message, MAX_MESSAGE), "retryable": retryable}
    return msgspec.json.encode(fields)[:-1].decode()
