"""Dead letters for people: find, show, put back, discard; one or many (DESIGN 3.3).

A job that is put back runs again as a new run, from the due set, so caps and pauses hold for it too. A message goes
back into the queue it came from.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
import structlog

from gateway.errors import Conflict, GatewayError, NotFound, QueueFull, QuotaExceeded, StoreUnavailable
from gateway.jobs.dead_filter import Done, Filter, Found
from gateway.jobs.model import JOB_ID
from gateway.jobs.queue import JobQueue
from gateway.jobs.scripts import load_script
from gateway.jobs.store import JobStore
from gateway.settings import Settings
from gateway.store.deadletters import LETTER_ID, Place, before, shard_tag
from gateway.store.redis import Store

log = structlog.get_logger(__name__)

AT_ONCE: Final = 16
SCAN: Final = 1000  # entries one page may look at
MAX_PAGES: Final = 20  # one call about many may look at
MAX_SAMPLE: Final = 10
MAX_COUNTED: Final = 10_000  # of a dry run
DISCARDED_AT_ONCE: Final = 100
_NO_LETTER = "there is no such dead letter"

_LIST, _GET = (load_script(name, "dead_prelude") for name in ("dead_list", "dead_get"))
_DISCARD = load_script("discard")


class DeadLetters:
    """The dead letters of all owners: tenants, and `""` for messages of nobody.

    Without a queue messages cannot be put back.
    """

    def __init__(self, store: Store, queue: JobQueue | None, settings: Settings) -> None:
        self._store = store
        self._jobs = JobStore(store)
        self._queue = queue
        self._settings = settings

    async def find(
        self, owner: str, which: Filter, *, limit: int, after: Place | None = None, bare: bool = False
    ) -> Found:
        """List dead letters, newest first; with `bare` their ids alone. A page may be short before the end."""
        (ms, last), total, dropped, *items = await self._store.run(
            _LIST,
            shard_tag(self._store, owner),
            tenant=owner,
            limit=limit,
            scan=SCAN,
            bare=bare,
            **which.arguments(),
            **before(after),
        )
        return Found(items, Place(ms, last.decode()) if last else None, total, dropped)

    async def show(self, owner: str, letter_id: str) -> bytes:
        """Return a dead letter as JSON: the job with input and attempts, or the message with its body.

        Raises:
            NotFound: there is none.
        """
        head, shown, *rest = await self._read(owner, letter_id)
        if LETTER_ID.match(letter_id):
            counted, body = rest
            return b'{%b"job":null,"message":{%b,%b,"body":%b}}' % (
                head,
                shown,
                counted,
                _shown(base64.b64decode(body)),
            )
        given, attempts = rest
        listed = b",".join(attempts.splitlines())
        return b'{%b"job":%b,"input":%b,"attempts":[%b]},"message":null}' % (head, shown[:-1], given, listed)

    async def _read(self, owner: str, letter_id: str) -> list[bytes]:
        found: list[bytes] | None = None
        if JOB_ID.match(letter_id) or LETTER_ID.match(letter_id):
            found = await self._store.run(_GET, shard_tag(self._store, owner), tenant=owner, id=letter_id)
        if not found:
            raise NotFound(_NO_LETTER)
        return found

    async def requeue(self, owner: str, letter_id: str, *, delay: float = 0) -> None:
        """Put one back; a job is due after `delay` seconds.

        Raises:
            NotFound: there is none.
            Conflict: the job has not ended, or the message is not kept whole.
            QuotaExceeded: the tenant has too many open jobs.
            QueueUnavailable: whether the message is back in its queue is unknown; it is still a dead letter.
            QueueFull: its queue takes no more.
        """
        if LETTER_ID.match(letter_id):
            await self._resend(owner, letter_id)
            await self.discard(owner, [letter_id])
            return
        found = None
        if owner and JOB_ID.match(letter_id):
            most = self._settings.max_open_jobs
            found = await self._jobs.rerun(owner, letter_id, lease=delay, max_open=most, dead=True)
        if found is None:
            raise NotFound(_NO_LETTER)

    async def _resend(self, owner: str, letter_id: str) -> None:
        _, members, _, body = await self._read(owner, letter_id)
        message = msgspec.json.decode(b"{%b}" % members, type=_Kept)
        if message.cut:
            raise Conflict(f"the message has {message.size} bytes or large headers and was not kept whole")
        if self._queue is None:
            raise Conflict("there is no queue to put it into")
        await self._queue.resend(
            message.source, base64.b64decode(body), headers=message.headers, content_type=message.content_type
        )

    async def discard(self, owner: str, ids: Sequence[str]) -> int:
        """Take dead letters out for good; their jobs stay failed. Returns how many were there."""
        known = [letter_id for letter_id in ids if JOB_ID.match(letter_id) or LETTER_ID.match(letter_id)]
        tag = shard_tag(self._store, owner)
        done = 0
        for start in range(0, len(known), DISCARDED_AT_ONCE):
            part = known[start : start + DISCARDED_AT_ONCE]
            done += sum(await self._store.run(_DISCARD, tag, tenant=owner, ids=part))
        return done

    async def discard_one(self, owner: str, letter_id: str) -> None:
        """Take one out for good; raises NotFound."""
        if not await self.discard(owner, [letter_id]):
            raise NotFound(_NO_LETTER)

    async def count(self, owner: str, which: Filter, *, limit: int, after: Place | None = None) -> Done:
        """Say how many fit, looking no further than `limit` of them."""
        ids, rest = await self._collect(owner, which, limit, after)
        return Done(len(ids), 0, [], rest)

    async def discard_many(self, owner: str, which: Filter, *, limit: int, after: Place | None = None) -> Done:
        """Discard up to `limit` that fit."""
        ids, rest = await self._collect(owner, which, limit, after)
        return Done(len(ids), await self.discard(owner, ids), [], rest)

    async def requeue_many(
        self, owner: str, which: Filter, *, limit: int, after: Place | None = None, rate: float | None = None
    ) -> Done:
        """Put back up to `limit` that fit, `rate` jobs a second; stops where the tenant's quota or a queue does."""
        start = after or await self._newest(owner, which)
        ids, rest = await self._collect(owner, which, limit, after)
        done = await self.requeue_these(owner, ids, rate=rate)
        # What was left out is still there: from where this call began it is found again, but not what has died since.
        return done._replace(after=start if done.after else rest)

    async def requeue_these(self, owner: str, ids: Sequence[str], *, rate: float | None = None) -> Done:
        """Put these back; `after` is set when there was no room for all of them."""
        room = asyncio.Semaphore(AT_ONCE)
        failed: list[tuple[str, GatewayError]] = []
        full = asyncio.Event()

        async def one(number: int, letter_id: str) -> bool:
            async with room:
                if full.is_set():
                    return False
                try:
                    await self.requeue(owner, letter_id, delay=number / rate if rate else 0)
                except GatewayError as error:
                    failed.append((letter_id, error))
                    if isinstance(error, QuotaExceeded | QueueFull | StoreUnavailable):
                        full.set()
                    return False
                return True

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(number, letter_id)) for number, letter_id in enumerate(ids)]
        return Done(len(ids), sum(task.result() for task in running), failed, _START if full.is_set() else None)

    async def discard_these(self, owner: str, ids: Sequence[str]) -> Done:
        """Discard these; each that is not there is a failure."""
        failed: list[tuple[str, GatewayError]] = []
        for letter_id in ids:
            try:
                await self.discard_one(owner, letter_id)
            except NotFound as error:
                failed.append((letter_id, error))
        return Done(len(ids), len(ids) - len(failed), failed, None)

    async def _newest(self, owner: str, which: Filter) -> Place:
        """Return the place before everything that is there now."""
        newest = (await self.find(owner, which, limit=1)).items
        if not newest:
            return _START
        died_at = msgspec.json.decode(newest[0], type=_Died).died_at
        return Place(round(died_at.timestamp() * 1000), _START.name)

    async def _collect(
        self, owner: str, which: Filter, limit: int, after: Place | None
    ) -> tuple[list[str], Place | None]:
        ids: list[str] = []
        for _ in range(MAX_PAGES):
            found = await self.find(owner, which, limit=min(limit - len(ids), SCAN), after=after, bare=True)
            ids += [item.decode() for item in found.items]
            after = found.after
            if after is None or len(ids) >= limit:
                break
        return ids, after


_START: Final = Place(1 << 53, "~")  # before everything


class _Died(msgspec.Struct):
    died_at: datetime


class _Kept(msgspec.Struct):
    source: str
    size: int
    cut: bool
    content_type: str
    headers: dict[str, object]


def _shown(body: bytes) -> bytes:
    """Show a body as base64, and as text when it is UTF-8."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = None
    return msgspec.json.encode({"base64": base64.b64encode(body).decode(), "text": text})
