"""Dead letters over HTTP (DESIGN 3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.keys import require
from gateway.auth.principals import Principal, Scope, principal_of
from gateway.errors import FieldError, InvalidFields
from gateway.jobs.dead_filter import Done, Filter, shown_group
from gateway.jobs.deadletters import MAX_COUNTED, MAX_SAMPLE, DeadLetters
from gateway.jobs.permissions import check_root
from gateway.store.deadletters import UNOWNED, DeadLetterStore, Place
from gateway.web.bodies import read_json
from gateway.web.pagination import Query, decode_cursor, encode_cursor, page_body
from gateway.web.problems import problem_document
from gateway.web.responses import json_response

log = structlog.get_logger(__name__)

MAX_BULK = 1000
MAX_PAGE = 100
_FILTERS = Filter.__struct_fields__


class Bulk(Filter, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which dead letters, and how to deal with them.

    Attributes:
        all: everything is meant; needed when no filter says what is.
        unowned: of messages whose tenant nobody knows.
        dry_run: only say how many, and show some.
        limit: at most so many in this call.
        cursor: where an earlier call with the same filter stopped.
    """

    all: bool = False
    unowned: bool = False
    dry_run: bool = False
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_BULK)] = MAX_BULK
    cursor: Annotated[str, msgspec.Meta(max_length=1024)] | None = None

    def check(self) -> None:
        """Insist that somebody has said what is meant; raises InvalidFields."""
        if not self.all and not any(getattr(self, name) for name in _FILTERS):
            rule = f"say what is meant: at least one of {', '.join(_FILTERS)}, or all: true"
            raise InvalidFields(errors=[FieldError("", rule)])


class BulkRequeue(Bulk, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """As `Bulk`.

    Attributes:
        rate: jobs a second that become due; without it all at once.
    """

    rate: Annotated[float, msgspec.Meta(ge=0.01, le=100_000)] | None = None


@dataclass(frozen=True)
class DeadLetterRoutes:
    """The handlers and what they need."""

    letters: DeadLetters
    groups_store: DeadLetterStore

    def routes(self) -> list[Route]:
        """Return the routes, to be mounted at the root."""
        return [
            Route("/v1/dead-letters", self.index, methods=["GET"]),
            Route("/v1/dead-letters/groups", self.groups, methods=["GET"]),
            Route("/v1/dead-letters/requeue", self.requeue_many, methods=["POST"]),
            Route("/v1/dead-letters/discard", self.discard_many, methods=["POST"]),
            Route("/v1/dead-letters/{id}", self.get, methods=["GET"]),
            Route("/v1/dead-letters/{id}/requeue", self.requeue, methods=["POST"]),
            Route("/v1/dead-letters/{id}/discard", self.discard, methods=["POST"]),
        ]

    async def index(self, request: Request) -> Response:
        """GET /v1/dead-letters?group=&error_type=&reason=&type=&pool=&since=&until=&unowned=&limit=&cursor=."""
        query = Query(request.query_params)
        page = query.page(default=50, maximum=MAX_PAGE)
        texts = {name: query.text(name) for name in _FILTERS}
        owner = _owner(request, "jobs:read", unowned=query.flag("unowned"))
        which = _filter(query, {name: text for name, text in texts.items() if text})
        query.check()
        found = await self.letters.find(owner, which, limit=page.limit, after=_place(page.cursor))
        body = page_body([msgspec.Raw(item) for item in found.items], _cursor(found.after))
        return json_response({**body, "total": found.total, "dropped": found.dropped}, 200)

    async def groups(self, request: Request) -> Response:
        """GET /v1/dead-letters/groups?unowned=&limit=&cursor=: what the errors have in common."""
        query = Query(request.query_params)
        page = query.page(default=50, maximum=MAX_PAGE)
        owner = _owner(request, "jobs:read", unowned=query.flag("unowned"))
        query.check()
        found, after, total = await self.groups_store.groups(owner, limit=page.limit, after=_place(page.cursor))
        items = [shown_group(group) for group in found]
        return json_response({**page_body(items, _cursor(after)), "total": total}, 200)

    async def get(self, request: Request) -> Response:
        """GET /v1/dead-letters/{id}: the job with input and attempts, or the message with its body."""
        owner = _of_path(request, "jobs:read")
        return json_response(await self.letters.show(owner, request.path_params["id"]), 200)

    async def requeue(self, request: Request) -> Response:
        """POST /v1/dead-letters/{id}/requeue: 202; the job runs again, or the message is back in its queue."""
        owner, letter_id = _of_path(request, "jobs:write"), request.path_params["id"]
        await self.letters.requeue(owner, letter_id)
        _audit(request, "requeued", owner, id=letter_id)
        return json_response({"id": letter_id, "requeued": True}, 202)

    async def discard(self, request: Request) -> Response:
        """POST /v1/dead-letters/{id}/discard: 200; it is no dead letter any more, and its job stays failed."""
        owner, letter_id = _of_path(request, "jobs:write"), request.path_params["id"]
        await self.letters.discard_one(owner, letter_id)
        _audit(request, "discarded", owner, id=letter_id)
        return json_response({"id": letter_id, "discarded": True}, 200)

    async def requeue_many(self, request: Request) -> Response:
        """POST /v1/dead-letters/requeue: up to 1,000 that fit a filter."""
        wanted = await read_json(request, BulkRequeue)
        owner = _bulk_owner(request, wanted)
        after = _place(wanted.cursor)
        if wanted.dry_run:
            return await self._dry_run(owner, wanted)
        done = await self.letters.requeue_many(owner, wanted, limit=wanted.limit, after=after, rate=wanted.rate)
        _audit(request, "requeued", owner, count=done.done)
        # Until these have become due, the next lot would come on top of them.
        wait = {"Retry-After": str(math.ceil(done.done / wanted.rate))} if wanted.rate and done.after else {}
        return json_response(_done(done), 200, wait)

    async def discard_many(self, request: Request) -> Response:
        """POST /v1/dead-letters/discard: up to 1,000 that fit a filter."""
        wanted = await read_json(request, Bulk)
        owner = _bulk_owner(request, wanted)
        if wanted.dry_run:
            return await self._dry_run(owner, wanted)
        done = await self.letters.discard_many(owner, wanted, limit=wanted.limit, after=_place(wanted.cursor))
        _audit(request, "discarded", owner, count=done.done)
        return json_response(_done(done), 200)

    async def _dry_run(self, owner: str, wanted: Bulk) -> Response:
        after = _place(wanted.cursor)
        counted = await self.letters.count(owner, wanted, limit=MAX_COUNTED, after=after)
        sample = await self.letters.find(owner, wanted, limit=MAX_SAMPLE, after=after)
        body = {**_done(counted), "dry_run": True, "sample": [msgspec.Raw(item) for item in sample.items]}
        return json_response(body, 200)


def _owner(request: Request, scope: Scope, *, unowned: bool) -> str:
    principal = principal_of(request.scope)
    require(principal, scope)
    if unowned:
        check_root(principal)
        return UNOWNED
    return principal.tenant


def _of_path(request: Request, scope: Scope) -> str:
    query = Query(request.query_params)
    unowned = query.flag("unowned")
    query.check()
    return _owner(request, scope, unowned=unowned)


def _bulk_owner(request: Request, wanted: Bulk) -> str:
    owner = _owner(request, "jobs:write", unowned=wanted.unowned)
    wanted.check()
    return owner


def _filter(query: Query, texts: dict[str, str]) -> Filter:
    """Read a filter from texts, naming what is no time."""
    good: dict[str, str] = {}
    for name, text in texts.items():
        try:
            msgspec.convert({name: text}, Filter)
        except msgspec.ValidationError:
            query.fault(name, "must be a time as RFC 3339 says, with an offset: 2026-01-31T12:00:00Z")
        else:
            good[name] = text
    return msgspec.convert(good, Filter)


def _place(cursor: str | None) -> Place | None:
    return decode_cursor(cursor, Place) if cursor else None


def _cursor(after: Place | None) -> str | None:
    return encode_cursor(after) if after else None


def _done(done: Done) -> dict[str, object]:
    return {
        "dry_run": False,
        "matched": done.matched,
        "done": done.done,
        "failed": [{"id": letter_id, "problem": problem_document(error)} for letter_id, error in done.failed],
        "next_cursor": _cursor(done.after),
    }


def _audit(request: Request, what: str, owner: str, **facts: object) -> None:
    """Who did it: a line for whoever asks later."""
    principal: Principal = principal_of(request.scope)
    log.info(
        "dead_letter.dealt_with", how=what, tenant=owner, by=principal.subject, by_tenant=principal.tenant, **facts
    )
