"""What can be done with jobs: submit (DESIGN 4.2), read, wait."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import msgspec
import structlog

from gateway.errors import (
    NotFound,
    QueueFull,
    QueueUnavailable,
    QuotaExceeded,
    StoreUnavailable,
)
from gateway.events import new_id
from gateway.jobs.arguments import Arguments
from gateway.jobs.confirmations import Confirmations
from gateway.jobs.model import JOB_ID, TERMINAL
from gateway.jobs.queue import JobQueue, Message
from gateway.jobs.records import Job, Submitted
from gateway.jobs.refusal import Refusals
from gateway.jobs.store import JobStore
from gateway.jobs.submission import Submission, check
from gateway.settings import Settings
from gateway.store.channels import ChannelStore

log = structlog.get_logger(__name__)

# Until then only the submitter publishes the job; afterwards whoever looks at the due set.
PUBLISH_LEASE = 5.0
_NO_JOB = "there is no such job"


class Accepted(NamedTuple):
    """The answer to a submission: the job's id and JSON.

    Attributes:
        replayed: it repeats an earlier answer, under the same Idempotency-Key.
        existing: it is an open job that has the unique key; nothing was made.
    """

    id: str
    job: bytes
    replayed: bool = False
    existing: bool = False


class Watcher(Protocol):
    """Tells when something is published on a channel, from the moment the context is entered."""

    def watch(self, tenant: str, channel: str) -> AbstractAsyncContextManager[asyncio.Event]:
        """Return a context in which the event is set by each publication."""


class JobService:
    """Jobs, as the HTTP surface and the tools see them."""

    def __init__(
        self,
        store: JobStore,
        queue: JobQueue,
        channels: ChannelStore,
        watcher: Watcher,
        settings: Settings,
        *,
        confirmations: Confirmations | None = None,
    ) -> None:
        """`confirmations` records what is queued after the answer; without it, that is done before."""
        self.store = store
        self._confirmations = confirmations
        self._queue = queue
        self._arguments = Arguments(channels, settings)
        self._watcher = watcher
        self._settings = settings
        self._refusals = Refusals(store, settings)

    async def submit(
        self, tenant: str, wanted: Submission, *, traceparent: str, idempotency_key: str | None = None
    ) -> Accepted:
        """Accept a job and give it to the queue.

        Args:
            tenant: whose job.
            wanted: what to run.
            traceparent: W3C trace context the job belongs to.
            idempotency_key: repeating a submission with the same key gets the first one's answer, for 24 h.

        Raises:
            InvalidFields: a field breaks a rule (`UnknownTaskType`: nobody registered the type).
            IdempotencyMismatch, IdempotencyInFlight: see draft-ietf-httpapi-idempotency-key-header-07.
            QuotaExceeded: the tenant has too many open jobs.
            QueueFull: the queue refused; the job was withdrawn.
            Overloaded: all tenants together have too many open jobs.
            StoreUnavailable: Redis is away; whether the job was accepted is not known.
        """
        check(wanted)
        job_id = new_id("job_")
        key = hashlib.sha256(idempotency_key.encode()).hexdigest()[:32] if idempotency_key else None
        outcome = await self.store.submit(
            tenant,
            **self._arguments.of(tenant, job_id, wanted, traceparent, lease=PUBLISH_LEASE),
            key=key,
            fingerprint=_fingerprint(wanted),
        )
        return await self._accepted(tenant, job_id, wanted, outcome, key)

    async def _accepted(
        self, tenant: str, job_id: str, wanted: Submission, outcome: Submitted, key: str | None
    ) -> Accepted:
        """Do what the script's decision asks for; raises as `submit`."""
        if outcome.kind == "replay":
            return _replayed(outcome)
        if outcome.kind == "held":
            if key is not None:
                await self._settle(tenant, key, outcome.job)
            return Accepted(_id(outcome.job), outcome.job, existing=True)
        if outcome.kind not in {"accepted", "parked"}:
            raise await self._refusals.of(outcome.kind, tenant, wanted.type)
        job = outcome.job
        if outcome.message is not None and int((wanted.delay or 0) * 1000) == 0:
            job = await self._publish_new(outcome.message, job, key)
        if key is not None:
            await self._settle(tenant, key, job)
        return Accepted(job_id, job)

    async def cancel(self, tenant: str, job_id: str) -> bytes:
        """Cancel a job: at once if no worker holds it, else the worker is told.

        Raises:
            NotFound: there is none.
            Conflict: it has ended.
        """
        job = await self.store.cancel(tenant, job_id) if JOB_ID.match(job_id) else None
        if job is None:
            raise NotFound(_NO_JOB)
        return job

    async def rerun(self, tenant: str, job_id: str) -> bytes:
        """Run an ended job again.

        Raises:
            NotFound: there is none.
            Conflict: it has not ended, or its unique key is another open job's.
            QuotaExceeded: the tenant has too many open jobs.
        """
        found = None
        if JOB_ID.match(job_id):
            found = await self._accept_again(tenant, job_id)
        if found is None:
            raise NotFound(_NO_JOB)
        job, message = found
        if message is None:
            return job  # it waits to be admitted
        try:
            return await self._publish(message, job)
        except QueueFull:
            return job  # nothing to take back: the due set tries again

    async def _accept_again(self, tenant: str, job_id: str) -> tuple[bytes, Message | None] | None:
        settings = self._settings
        try:
            return await self.store.rerun(
                tenant,
                job_id,
                lease=PUBLISH_LEASE,
                max_open=settings.max_open_jobs,
                max_admitted=settings.max_admitted_per_tenant,
            )
        except QuotaExceeded:
            raise await self._refusals.quota(tenant) from None

    async def _publish_new(self, message: Message, job: bytes, key: str | None) -> bytes:
        try:
            return await self._publish(message, job)
        except QueueFull:
            went_on = await self.store.withdraw(message.tenant, message.id, key)
            if went_on is None:
                raise await self._refusals.full(message) from None
            return went_on

    async def _publish(self, message: Message, job: bytes) -> bytes:
        try:
            await self._queue.publish(message)
        except QueueUnavailable:
            # Unknown is not failed: the job stays accepted, and the due set publishes it.
            log.warning("job.publish_unknown", job_id=message.id, tenant=message.tenant)
            return job
        if self._confirmations is not None and self._confirmations.note(message):
            return job
        try:
            return await self.store.queued(message) or job
        except StoreUnavailable:
            # The broker has it; the claim records what could not be recorded here.
            log.warning("job.queued_unrecorded", job_id=message.id, tenant=message.tenant)
            return job

    async def _settle(self, tenant: str, key: str, job: bytes) -> None:
        try:
            await self.store.settle(tenant, key, job)
        except StoreUnavailable:
            log.warning("job.answer_unrecorded", tenant=tenant)  # a repetition is told of the job as it is then

    async def get(self, tenant: str, job_id: str, *, full: bool = False) -> Job:
        """Read a job.

        Raises:
            NotFound: there is none.
        """
        job = await self.store.get(tenant, job_id, full=full) if JOB_ID.match(job_id) else None
        if job is None:
            raise NotFound(_NO_JOB)
        return job

    async def wait_for_change(self, tenant: str, job_id: str, version: int | None, limit: float) -> Job:
        """Return the job once its version differs from `version` (None: from now), or as it is after `limit` s."""
        return await self._wait(tenant, job_id, version, limit, to_end=False)

    async def wait_for_end(self, tenant: str, job_id: str, limit: float) -> Job:
        """Return the job once it has ended, or as it is after `limit` seconds."""
        return await self._wait(tenant, job_id, None, limit, to_end=True)

    async def _wait(self, tenant: str, job_id: str, version: int | None, limit: float, *, to_end: bool) -> Job:
        job = await self.get(tenant, job_id, full=True)
        known = job.version if version is None else version
        try:
            async with asyncio.timeout(limit), self._watcher.watch(tenant, f"job:{job_id}") as changed:
                while True:
                    changed.clear()
                    job = await self.get(tenant, job_id, full=True)
                    if job.status in TERMINAL or (not to_end and job.version != known):
                        return job
                    await changed.wait()
        except TimeoutError:
            return job


def _replayed(outcome: Submitted) -> Accepted:
    job = outcome.answer or outcome.job
    if not job:
        raise NotFound("the job of this Idempotency-Key is no longer kept")
    return Accepted(_id(job), job, replayed=True)


class _Id(msgspec.Struct):
    id: str


def _id(job: bytes) -> str:
    return msgspec.json.decode(job, type=_Id).id


def _fingerprint(wanted: Submission) -> str:
    return hashlib.sha256(msgspec.json.encode(wanted)).hexdigest()[:32]
