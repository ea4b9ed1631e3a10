"""Jobs by remote procedure call: what a WebSocket client can do without HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec

from gateway.auth.principals import Principal
from gateway.jobs.permissions import check_reader, check_submitter, check_writer
from gateway.jobs.service import JobService
from gateway.jobs.submission import Submission
from gateway.web.context import random_trace
from gateway.web.decoding import decode

Call = Callable[[Principal, bytes], Awaitable[bytes]]


class Submit(Submission, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`job.submit`: a submission, and perhaps what is the header `Idempotency-Key` over HTTP."""

    idempotency_key: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`job.get` and `job.cancel`."""

    id: str


class JobCalls:
    """`job.submit`, `job.get`, `job.cancel`: each gets JSON and answers the job's. They raise what HTTP answers."""

    def __init__(self, service: JobService) -> None:
        self._service = service

    def methods(self) -> dict[str, Call]:
        """Return the calls by method."""
        return {"job.submit": self.submit, "job.get": self.get, "job.cancel": self.cancel}

    async def submit(self, principal: Principal, data: bytes) -> bytes:
        """Accept a job."""
        check_writer(principal)
        request = decode(data, Submit)
        fields = {name: getattr(request, name) for name in Submission.__struct_fields__}
        wanted = Submission(**fields)
        check_submitter(principal, wanted)
        accepted = await self._service.submit(
            principal.tenant,
            wanted,
            traceparent=random_trace().traceparent,
            idempotency_key=request.idempotency_key,
        )
        return accepted.job

    async def get(self, principal: Principal, data: bytes) -> bytes:
        """Read a job, with input and attempts."""
        job = await self._service.get(principal.tenant, decode(data, Named).id, full=True)
        check_reader(principal, job)
        return job.full

    async def cancel(self, principal: Principal, data: bytes) -> bytes:
        """Cancel a job, or tell its worker to stop."""
        check_writer(principal)
        return await self._service.cancel(principal.tenant, decode(data, Named).id)
