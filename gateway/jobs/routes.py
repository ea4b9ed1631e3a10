"""Jobs over HTTP (DESIGN 3.3)."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.keys import require
from gateway.auth.principals import Principal, principal_of
from gateway.errors import BadRequest, Conflict, Forbidden, GatewayError, NotFound, PositionLost, Unavailable
from gateway.events import Position
from gateway.jobs.attachments import Attachments
from gateway.jobs.model import STATES, TERMINAL
from gateway.jobs.permissions import check_reader, check_submitter, check_writer
from gateway.jobs.service import Accepted, JobService
from gateway.jobs.serving import attachment_response
from gateway.jobs.submission import Submission
from gateway.store.channels import ChannelStore
from gateway.web.bodies import read_json
from gateway.web.context import trace_of
from gateway.web.decoding import decode
from gateway.web.pagination import Query, page_body
from gateway.web.problems import problem_document
from gateway.web.responses import json_response

MAX_WAIT = 60.0
MAX_BATCH = 1000
MAX_BATCH_BODY = 16 * 1024 * 1024
MAX_EVENTS = 1000  # of a log in one answer
BATCH_AT_ONCE = 64
MAX_KEY = 255
RETRY_AFTER = "1"  # seconds; when asking again makes sense for a poller


@dataclass(frozen=True)
class JobRoutes:
    """The handlers and what they need."""

    service: JobService
    channels: ChannelStore
    attachments: Attachments

    def routes(self) -> list[Route]:
        """Return the routes, to be mounted at the root."""
        return [
            Route("/v1/jobs", self.submit, methods=["POST"]),
            Route("/v1/jobs", self.index, methods=["GET"]),
            Route("/v1/jobs/batch", self.batch, methods=["POST"]),
            Route("/v1/jobs/{id}", self.get, methods=["GET"]),
            Route("/v1/jobs/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/v1/jobs/{id}/retry", self.retry, methods=["POST"]),
            Route("/v1/jobs/{id}/result", self.result, methods=["GET"]),
            Route("/v1/jobs/{id}/events", self.events, methods=["GET"]),
            Route("/v1/jobs/{id}/attachments/{name}", self.attachment, methods=["GET"]),
        ]

    async def submit(self, request: Request) -> Response:
        """POST /v1/jobs: 202 and the job at once, or 200 when it ended within `Prefer: wait`."""
        principal = _submitter(request)
        wanted = await read_json(request, Submission)
        check_submitter(principal, wanted)
        accepted = await self.service.submit(
            principal.tenant,
            wanted,
            traceparent=_traceparent(request),
            idempotency_key=_idempotency_key(request),
        )
        headers = {"Location": f"/v1/jobs/{accepted.id}", "Retry-After": RETRY_AFTER}
        if accepted.replayed:
            headers["Idempotent-Replayed"] = "true"
        if accepted.existing:
            headers["Unique-Existing"] = "true"
        wait = _wait(request)
        if wait is None:
            return json_response(accepted.job, 202, headers)
        try:
            job = await self.service.wait_for_end(principal.tenant, accepted.id, wait)
        except Unavailable:
            # The job is accepted, whatever we can learn of it now.
            return json_response(accepted.job, 202, headers)
        headers["Preference-Applied"] = f"wait={wait:g}"
        if job.status not in TERMINAL:
            return json_response(job.full, 202, headers)
        del headers["Retry-After"]
        return json_response(job.full, 200, headers)

    async def batch(self, request: Request) -> Response:
        """POST /v1/jobs/batch: up to 1,000 submissions, an answer for each."""
        principal = _submitter(request)
        body = await read_json(request, _Batch, limit=MAX_BATCH_BODY)
        key = _idempotency_key(request)
        traceparent = _traceparent(request)
        room = asyncio.Semaphore(BATCH_AT_ONCE)

        async def one(index: int, raw: msgspec.Raw) -> dict[str, object]:
            async with room:
                try:
                    wanted = decode(bytes(raw), Submission)
                    check_submitter(principal, wanted)
                    item_key = f"{key}#{index}" if key else None
                    accepted = await self.service.submit(
                        principal.tenant, wanted, traceparent=traceparent, idempotency_key=item_key
                    )
                except GatewayError as error:
                    return {"status": error.status, "problem": problem_document(error)}
                return _item(accepted)

        async with asyncio.TaskGroup() as tasks:
            answers = [tasks.create_task(one(index, raw)) for index, raw in enumerate(body.jobs)]
        return json_response({"jobs": [answer.result() for answer in answers]}, 202)

    async def get(self, request: Request) -> Response:
        """GET /v1/jobs/{id}, with ETag; with `Prefer: wait` a long poll for a change."""
        tenant, job_id = await self._readable(request)
        known = _version(request.headers.get("if-none-match"))
        wait = _wait(request)
        headers = {}
        if wait is None:
            job = await self.service.get(tenant, job_id, full=True)
        else:
            job = await self.service.wait_for_change(tenant, job_id, known, wait)
            headers["Preference-Applied"] = f"wait={wait:g}"
        headers |= {
            "ETag": f'"{job.version}"',
            "Cache-Control": "private, no-cache",
            "Vary": "Authorization, Prefer",
        }
        if job.status not in TERMINAL:
            headers["Retry-After"] = RETRY_AFTER
        if known == job.version:
            return Response(status_code=304, headers=headers)
        return json_response(job.full, 200, headers)

    async def cancel(self, request: Request) -> Response:
        """POST /v1/jobs/{id}/cancel: 202; the job is cancelled, or its worker is told."""
        principal = _submitter(request)
        return json_response(await self.service.cancel(principal.tenant, request.path_params["id"]), 202)

    async def retry(self, request: Request) -> Response:
        """POST /v1/jobs/{id}/retry: 202; the ended job runs again, as a new run."""
        principal = _submitter(request)
        return json_response(await self.service.rerun(principal.tenant, request.path_params["id"]), 202)

    async def result(self, request: Request) -> Response:
        """GET /v1/jobs/{id}/result: the task's result alone."""
        tenant, job_id = await self._readable(request)
        result = await self.service.store.result(tenant, job_id)
        if result is None:
            raise NotFound("there is no such job")
        if result.status not in TERMINAL:
            raise Conflict(f"the job is {result.status}; it has no result yet", retry_after=1)
        if result.json is None:
            raise NotFound(f"the job {result.status} without a result")
        return json_response(result.json, 200)

    async def events(self, request: Request) -> Response:
        """GET /v1/jobs/{id}/events: the job's log from an offset on."""
        tenant, job_id = await self._readable(request)
        query = Query(request.query_params)
        limit = query.integer("limit", MAX_EVENTS, minimum=1, maximum=MAX_EVENTS)
        since = query.integer("since", 0, minimum=0, maximum=10**15)
        query.check()
        history = await self.channels.history(tenant, f"job:{job_id}", since=Position("", since), limit=limit)
        if not history.complete:
            raise PositionLost
        found = [{"offset": item.offset, "event": msgspec.Raw(item.event)} for item in history.publications]
        return json_response({"events": found, "epoch": history.epoch, "offset": history.offset}, 200)

    async def attachment(self, request: Request) -> Response:
        """GET /v1/jobs/{id}/attachments/{name}: the file, never run by a browser as a page of ours."""
        tenant, job_id = await self._readable(request)
        found = await self.attachments.read(tenant, job_id, request.path_params["name"])
        return attachment_response(request, found)

    async def index(self, request: Request) -> Response:
        """GET /v1/jobs?status=&type=&owner=&parent=&limit=&cursor=: newest first."""
        principal = principal_of(request.scope)
        query = Query(request.query_params)
        page = query.page(default=50, maximum=100)
        status = query.choice("status", sorted(STATES))
        type_ = query.text("type")
        owner = query.text("owner")
        parent = query.text("parent")
        query.check()
        if principal.kind == "key":
            require(principal, "jobs:read")
        elif not principal.subject or owner not in {None, principal.subject}:
            raise Forbidden("a token lists the jobs of its own subject only")
        else:
            owner = principal.subject
        jobs, before = await self.service.store.find(
            principal.tenant,
            limit=page.limit,
            before=page.cursor,
            status=status,
            type=type_,
            owner=owner,
            parent=parent,
        )
        return json_response(page_body([msgspec.Raw(job) for job in jobs], before or None), 200)

    async def _readable(self, request: Request) -> tuple[str, str]:
        """Return tenant and id of the job in the path, if the caller may read it.

        Somebody else's job is not found rather than forbidden: whether it exists is not the caller's to know.
        """
        principal, job_id = principal_of(request.scope), request.path_params["id"]
        job = await self.service.get(principal.tenant, job_id)
        check_reader(principal, job)
        return principal.tenant, job_id


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    jobs: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


def _submitter(request: Request) -> Principal:
    principal = principal_of(request.scope)
    check_writer(principal)
    return principal


def _item(accepted: Accepted) -> dict[str, object]:
    return {"status": 202, "job": msgspec.Raw(accepted.job), **({"existing": True} if accepted.existing else {})}


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    key = key.strip().strip('"')  # the draft writes it as a structured-field string
    if not 1 <= len(key) <= MAX_KEY or not key.isprintable():
        raise BadRequest(f"Idempotency-Key must be 1 to {MAX_KEY} printable characters")
    return key


def _wait(request: Request) -> float | None:
    """Read `Prefer: wait=N` (RFC 7240 section 4.3), at most a minute. What is malformed is ignored, as it says."""
    for part in request.headers.get("prefer", "").split(","):
        found = re.fullmatch(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(;.*)?', part, re.IGNORECASE)
        if found:
            return min(float(found[1]), MAX_WAIT)
    return None


def _version(tag: str | None) -> int | None:
    found = re.fullmatch(r'(?:W/)?"(\d{1,15})"', tag.strip()) if tag else None
    return int(found[1]) if found else None


def _traceparent(request: Request) -> str:
    trace = trace_of(request.scope)
    if trace is None:
        raise AssertionError("RequestContext is not installed")
    return trace.traceparent
