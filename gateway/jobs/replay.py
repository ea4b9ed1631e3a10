"""A job as its log tells it: fold the events of `job:<id>` into the snapshot and the attempts. Pure.

What the log tells: everything in the job's JSON, and of each attempt run, number, times and error. What it does not:
the input, which worker had an attempt, and what only the scripts know (fence, lease, crashes, claims).

Two steps have no event, because only the submitter or nobody needs to hear of them: *accepted* (a submission, an ended
job's new run), and a *queued* job that its queue forgot. So a stored job may be one such step ahead of its log.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from gateway.jobs.model import EVENTS, HELD, TERMINAL, may
from gateway.jobs.schemas import JOB, PROGRESS, STEP
from gateway.schemas import Data, UnknownSchema

MAX_ATTEMPTS: Final = 50  # kept on a job, as in prelude.lua
_NULL: Final = msgspec.Raw(b"null")
_WITHIN: Final = frozenset({PROGRESS, STEP})  # told within a state
# What a new run begins without.
_OF_A_SAGA: Final = frozenset({"steps", "step", "ending"})
_OF_A_RUN: Final = ("progress", "queued_at", "started_at", "finished_at", "expires_at", "result", "result_url", "error")


class _Job(msgspec.Struct):
    """What the fold looks at."""

    id: str
    status: str
    version: int
    run: int


class _Event(msgspec.Struct):
    id: str
    type: str
    time: msgspec.Raw
    data: msgspec.Raw
    dataschema: str | None = None
    traceparent: str = ""


class Told(NamedTuple):
    """What a log tells.

    Attributes:
        job: the job's JSON by field, as of the newest event; empty when there is none.
        attempts: those that have ended, by field, without `worker`.
        status: the job's, or empty.
        version: the newest event's.
        traceparent: W3C trace context of the job.
        faults: what is wrong with the log, one sentence each.
        superseded: versions without an entry: pruned progress, and acceptances.
        original: the error a job that is or was undone is undone for.
    """

    job: Data
    attempts: Sequence[Data]
    status: str
    version: int
    traceparent: str
    faults: Sequence[str]
    superseded: int
    original: msgspec.Raw = _NULL


class Difference(NamedTuple):
    """A field in which the stored job is not what the log tells; JSON, or empty where one has no such field."""

    field: str
    stored: bytes
    told: bytes


def replay(events: Iterable[bytes]) -> Told:
    """Fold a job's log, oldest first. Faults do not end it: the newest event is the state in any case."""
    fold = _Fold()
    for event in events:
        fold.take(event)
    return fold.told()


class _Fold:
    def __init__(self) -> None:
        self._data: Data = {}
        self._now: _Job | None = None
        self._trace = ""
        self._began: Data | None = None  # the attempt that runs, and the error the job had before
        self._attempts: list[Data] = []
        self._faults: list[str] = []
        self._superseded = 0
        self._original = _NULL

    def take(self, raw: bytes) -> None:
        """Take the next event."""
        try:
            event = msgspec.json.decode(raw, type=_Event)
            data = JOB.upcast(event.data, event.dataschema)
            job = msgspec.json.decode(data, type=_Job)
        except (msgspec.DecodeError, UnknownSchema) as error:
            self._faults.append(f"an entry cannot be read: {error}")
            return
        self._faults += _wrong(self._now, job, event)
        self._superseded += max(0, job.version - (self._now.version if self._now else 0) - 1)
        self._follow_attempt(job, event, msgspec.json.decode(data, type=Data))
        self._now, self._trace = job, event.traceparent

    def _follow_attempt(self, job: _Job, event: _Event, data: Data) -> None:
        before = self._now.status if self._now else ""
        self._data = data
        undoing = job.status == "compensating" and event.type not in _WITHIN
        if self._began is not None and (undoing or job.status not in HELD):
            if not _given_back(job, event, data, self._began):
                self._end_attempt(job, event, self._began)
            self._began = None
        if undoing:
            self._original = data["error"]
        if event.type == EVENTS["running"] or (undoing and (before in HELD or before == "queued")):
            self._began = {name: data[name] for name in ("run", "attempt", "started_at", "error")}
            self._began |= {"undoing": event.time} if undoing else {}

    def _end_attempt(self, job: _Job, event: _Event, began: Data) -> None:
        ended = {name: began[name] for name in ("run", "attempt", "started_at")} | {"finished_at": event.time}
        if "undoing" not in began:  # of an undo's failure the job keeps the error it is undone for
            error = self._data["error"]
            # That of a cancelled job may be an earlier attempt's.
            ended["error"] = _NULL if job.status == "cancelled" and error == began["error"] else error
        self._attempts = [*self._attempts, ended][-MAX_ATTEMPTS:]

    def told(self) -> Told:
        """Return what was told so far."""
        now = self._now
        status, version = (now.status, now.version) if now else ("", 0)
        return Told(
            self._data, self._attempts, status, version, self._trace, self._faults, self._superseded, self._original
        )


def _given_back(job: _Job, event: _Event, data: Data, began: Data) -> bool:
    """Say whether an attempt did not end: a worker that stopped gave it back, or none had it when undoing began."""
    if job.status != "retrying":
        return False
    return data["attempt"] == began["attempt"] or event.time == began.get("undoing")


def _wrong(before: _Job | None, job: _Job, event: _Event) -> list[str]:
    """Say what is wrong with an event that follows another."""
    where, faults = f"version {job.version} ({event.type})", []
    if event.id != f"{job.id}-{job.version}":
        faults.append(f"{where} has the id {event.id}")
    if event.type not in _WITHIN and EVENTS.get(job.status) != event.type:
        faults.append(f"{where} tells of a job that is {job.status}")
    if before is None:
        if not may("accepted", job.status) and job.status != "scheduled":
            faults.append(f"{where} cannot be the first")
    elif job.version <= before.version:
        faults.append(f"{where} comes after version {before.version}")
    elif job.run != before.run:
        if before.status not in TERMINAL or job.run != before.run + 1 or not may("accepted", job.status):
            faults.append(f"{where} begins run {job.run} after a run {before.run} that was {before.status}")
    elif not _follows(before, job, event):
        faults.append(f"{where}: a job that is {before.status} cannot become {job.status}")
    return faults


def _follows(before: _Job, job: _Job, event: _Event) -> bool:
    if event.type in _WITHIN:
        return before.status == job.status and job.status not in TERMINAL
    if before.status == "queued" and job.status == "queued":
        return True  # the queue had forgotten it
    return may(before.status, job.status)


def differences(stored: Data, attempts: Sequence[Data], told: Told) -> list[Difference]:
    """Compare a stored job with what its log tells; empty when they agree."""
    found = min((_compare(stored, state) for state in _states(stored, told)), key=len)
    known = [*told.attempts, *({} for _ in attempts[len(told.attempts) :])]
    own = [{name: one[name] for name in one if name in of} for one, of in zip(attempts, known, strict=False)]
    if _encode(own) != _encode(told.attempts):
        found.append(Difference("attempts", _encode(own), _encode(told.attempts)))
    return found


def _states(stored: Data, told: Told) -> list[Data]:
    """What the stored job may be: as the newest event says, or one step without an event further."""
    if not told.job:
        # Nothing but the acceptance has happened. The log cannot say more, and says nothing else.
        return [stored if _text(stored, "status") == "accepted" else {}]
    if told.status in TERMINAL:
        again = rerun(told.job)
        # One whose undo failed is undone further.
        return [
            told.job,
            {name: again[name] for name in again if name not in _OF_A_SAGA},
            again | {"error": told.original},
        ]
    if told.status == "queued":
        return [told.job, told.job | {"status": msgspec.Raw(b'"accepted"')}]
    return [told.job]


def rerun(ended: Data) -> Data:
    """Return an ended job accepted for a new run."""
    fields: dict[str, Any] = {
        "status": "accepted",
        "run": msgspec.json.decode(ended["run"]) + 1,
        "attempt": 1,
        "version": msgspec.json.decode(ended["version"]) + 1,
    }
    fresh = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}
    return ended | dict.fromkeys(_OF_A_RUN, _NULL) | fresh


def _compare(stored: Data, told: Data) -> list[Difference]:
    names = dict.fromkeys([*stored, *told])
    pairs = ((name, bytes(stored.get(name, b"")), bytes(told.get(name, b""))) for name in names)
    return [Difference(*pair) for pair in pairs if pair[1] != pair[2]]


def _text(data: Data, name: str) -> object:
    return msgspec.json.decode(data[name]) if name in data else None


def _encode(attempts: Sequence[Data]) -> bytes:
    return msgspec.json.encode(attempts)
