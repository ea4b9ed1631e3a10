"""What a task sees of its job."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, TypedDict

import msgspec

from consumers.asking import Question, Value
from consumers.durable import Durable
from consumers.helpers import Helpers
from consumers.outcome import GiveUp, printable
from consumers.threads import in_loop
from gateway.errors import StaleFence
from gateway.jobs.attachments import Attachments, url

if TYPE_CHECKING:
    from consumers.desk import Desk
    from gateway.jobs.queue import Message
    from gateway.settings import Settings

MAX_PROGRESS_MESSAGE = 500


class Cancelled(Exception):
    """Raised inside a thread or process whose job is no longer its own: cancelled, timed out or taken over."""

    def __init__(self, message: str = "the job is no longer this attempt's") -> None:
        super().__init__(message)


class Attached(TypedDict):
    """An attachment, as it stands in a result."""

    name: str
    size: int
    type: str
    url: str


class TaskSettings(msgspec.Struct, frozen=True):
    """The settings a task may know; no secrets.

    Attributes:
        webhook_allow: CIDRs the outbound address guard lets through although they are not public.
        max_attachment_bytes: largest attachment.
    """

    webhook_allow: tuple[str, ...] = ()
    max_attachment_bytes: int = 64 * 1024 * 1024


class Context(Helpers, Durable):
    """One attempt of one job, as its task sees it. The methods say from where they may be called.

    Attributes:
        job_id: the job.
        type: its type.
        tenant: whose it is.
        run: 1, 2, … each time an ended job is run again.
        attempt: 1, 2, … within the run.
        max_attempts: the last one.
        settings: those a task may know.
        cancelled: True once nobody wants the result any more; long tasks look at it.
    """

    def __init__(self, message: Message, max_attempts: int, settings: Settings, attachments: Attachments) -> None:
        self.job_id = message.id
        self.type = message.type
        self.tenant = message.tenant
        self.run = message.run
        self.attempt = message.attempt
        self.max_attempts = max_attempts
        self.settings = TaskSettings(settings.webhook_allow, settings.max_attachment_bytes)
        self.cancelled = False
        self._on_cancel: list[Callable[[], None]] = []
        self._attachments = attachments
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._reported: str | None = None
        self._tell: Callable[[], None] = _nobody
        self.desk: Desk | None = None  # the worker's

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress, from anywhere and as often as you like: only the newest within 0.1 s is recorded.

        Args:
            done: units done so far.
            total: units altogether, if known.
            message: for people, cut at 500 characters.

        Raises:
            Cancelled: nobody wants the result any more.
        """
        self._check()
        self._reported = progress_json(done, total, message)
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self._tell()
        else:
            self._loop.call_soon_threadsafe(self._tell)

    def on_progress(self, tell: Callable[[], None]) -> None:
        """Call this in the loop after each report. For the worker."""
        self._tell = tell

    def take_progress(self) -> str | None:
        """Return what was reported since the last call, as JSON. For the worker."""
        reported, self._reported = self._reported, None
        return reported

    def cancel(self) -> None:
        """Tell the task that nobody wants the result any more. For the worker."""
        self.cancelled = True
        for tell in self._on_cancel:
            tell()

    def on_cancel(self, tell: Callable[[], None]) -> None:
        """Have something called, in the event loop, when `cancel` is. For the worker."""
        self._on_cancel.append(tell)

    async def attach(self, name: str, data: bytes | AsyncIterator[bytes], content_type: str) -> Attached:
        """Keep a file with the job, from an async task.

        Raises:
            InvalidFields: the name or the media type breaks a rule.
            BodyTooLarge: over `settings.max_attachment_bytes`, or over 100 files.
            FilesUnavailable: where attachments are kept is away.
            Cancelled: nobody wants the result any more.
        """
        self._in_loop()
        self._check()
        size = await self._attachments.write(self.tenant, self.job_id, name, data, content_type)
        return {"name": name, "size": size, "type": content_type, "url": url(self.job_id, name)}

    def attach_sync(self, name: str, data: bytes, content_type: str) -> Attached:
        """Keep a file with the job, from a task in a thread. Raises as `attach`."""
        self._off_loop()
        self._check()
        return in_loop(self._loop, partial(self.attach, name, data, content_type))

    async def ask(self, question: Question) -> Value:
        """Ask the worker; see `consumers.desk`. For the helpers."""
        self._in_loop()
        if self.desk is None:
            raise RuntimeError("this context has no worker")
        try:
            return await self.desk.ask(question)
        except StaleFence:
            self.cancelled = True
            raise Cancelled from None

    def ask_sync(self, question: Question) -> Value:
        """Ask the worker from a thread. For the helpers."""
        self._off_loop()
        return in_loop(self._loop, partial(self.ask, question))

    def _in_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise GiveUp("in a thread use `with` and the methods whose names end in _sync, not a loop of its own")

    def _off_loop(self) -> None:
        # Blocking the loop until the loop has answered would stop the worker for good.
        if threading.get_ident() == self._thread:
            raise GiveUp("in an async task use `await`, `async with` and the methods whose names do not end in _sync")

    def _check(self) -> None:
        if self.cancelled:
            raise Cancelled


def _nobody() -> None:
    """Whom a context tells of its progress until the worker wants to know."""


def progress_json(done: float, total: float | None, message: str | None) -> str:
    """Write a job's progress: {done, total, fraction, message}; the fraction is within 0 and 1, or null."""
    fraction = min(1.0, max(0.0, done / total)) if total else None
    text = None if message is None else printable(message, MAX_PROGRESS_MESSAGE)
    fields = {"done": done, "total": total, "fraction": fraction, "message": text}
    return msgspec.json.encode(fields).decode()
