"""The undertaker: deals with what ended in the dead letters of the queue, so that nothing lies there unseen.

A job that nobody began with goes back to the due set; one that a worker refused has failed; one that cannot be had
back, and what is no job, is kept as a dead letter. It acknowledges only what is recorded, and everything it does may be
repeated, so it may die at any moment and several may work at once. Every gateway process runs one: they live when it
is the workers that die.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from gateway.errors import ConfigurationError, GatewayError, QueueUnavailable, StoreUnavailable
from gateway.jobs.deaths import refusal_of
from gateway.jobs.queue import DeadDelivery, JobQueue, Letter, Message, Undecodable, decode
from gateway.jobs.rebuild import Rebuilder
from gateway.jobs.scripts import load_script
from gateway.store.deadletters import DeadLetterStore
from gateway.store.redis import Store

log = structlog.get_logger(__name__)

AGAIN: Final = 60.0  # seconds until a job that nobody began with is published again: it had twenty deliveries
AWAY_NAP: Final = 1.0
LOOK_EVERY: Final = 60.0
PRUNED_AT_ONCE: Final = 100

_UNDECODABLE: Final = "undecodable"
_UNDERTAKE = load_script("undertake")


class Undertaker:
    """Empties the dead letters of a queue.

    Args:
        again: seconds until a job that nobody began with is due again.
        look_every: seconds between looks at what waits and what is too old, and between tries to consume.
    """

    def __init__(
        self,
        store: Store,
        queue: JobQueue,
        letters: DeadLetterStore,
        rebuilder: Rebuilder,
        *,
        again: float = AGAIN,
        look_every: float = LOOK_EVERY,
    ) -> None:
        self._store = store
        self._queue = queue
        self._letters = letters
        self._rebuilder = rebuilder
        self._again = again
        self._look_every = look_every

    async def run(self) -> None:
        """Work until cancelled; whatever is away, or wrong on the broker, only makes it wait: jobs need it least."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            while True:
                try:
                    async with self._queue.consume_dead(self._on_letter):
                        await asyncio.Event().wait()
                except* (QueueUnavailable, ConfigurationError) as group:
                    log.error("undertaker.not_consuming", reason=str(_first(group)))  # noqa: TRY400 - the reason is all
                await asyncio.sleep(self._look_every)

    async def _watch(self) -> None:
        behind = 0.0
        while True:
            await asyncio.sleep(self._look_every)
            behind = await self._look(behind)

    async def _look(self, behind: float) -> float:
        """Forget old messages, and tell when letters have been waiting; returns for how long they have, in seconds."""
        try:
            for tag in self._letters.tags():
                while await self._letters.prune(tag, limit=PRUNED_AT_ONCE) == PRUNED_AT_ONCE:
                    pass
            waiting = await self._queue.dead_depth()
        except GatewayError as error:
            log.warning("undertaker.waiting", reason=error.code)
            return behind
        if waiting and behind:
            log.warning("undertaker.behind", letters=waiting, seconds=round(behind))
        return behind + self._look_every if waiting else 0.0

    async def _on_letter(self, delivery: DeadDelivery) -> None:
        """Record a letter, however long Redis is away, and acknowledge it."""
        while True:
            try:
                outcome = await self._record(delivery.letter)
                break
            except StoreUnavailable as error:
                log.warning("undertaker.waiting", reason=error.code)
                await asyncio.sleep(AWAY_NAP)
        log.info("undertaker.done", outcome=outcome, reason=delivery.letter.reason, **delivery.about)
        await delivery.ack()

    async def _record(self, letter: Letter) -> str:
        try:
            message = decode(letter.body)
        except Undecodable as error:
            return await self._bury(letter.tenant, *_verdict(letter, str(error)), letter)
        try:
            outcome = await self._decide(message, letter)
            if outcome == "missing" and await self._rebuilder.rebuild(message):
                outcome = await self._decide(message, letter)
        except StoreUnavailable:
            raise
        except Exception as error:
            # It would come again and again; a person sees it sooner as what it is.
            log.exception("undertaker.unrecorded", job_id=message.id, tenant=message.tenant)
            return await self._bury(message.tenant, "unrecorded", f"{type(error).__name__}: {error}", letter)
        if outcome == "missing":
            return await self._bury(message.tenant, "lost", "the job is not kept, and too old to be rebuilt", letter)
        return outcome

    async def _decide(self, message: Message, letter: Letter) -> str:
        facts: dict[str, object] = {}
        # A worker of another version did not understand it, and we do: nobody has begun with it.
        if letter.refused and not letter.reason.startswith(_UNDECODABLE):
            facts["error"], facts["death"] = refusal_of(message, letter.reason)
        said: bytes = await self._store.run(
            _UNDERTAKE,
            self._store.tag(message.tenant),
            tenant=message.tenant,
            id=message.id,
            run=message.run,
            attempt=message.attempt,
            delay_ms=int(self._again * 1000),
            **facts,
        )
        return said.decode()

    async def _bury(self, tenant: str, reason: str, detail: str, letter: Letter) -> str:
        await self._letters.bury(
            tenant,
            reason,
            letter.source,
            letter.body,
            letter.headers,
            detail=detail,
            message_id=letter.message_id,
            content_type=letter.content_type,
        )
        return reason


def _first(error: BaseException) -> BaseException:
    """Task groups wrap what went wrong, one in the other."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _verdict(letter: Letter, fault: str) -> tuple[str, str]:
    """Say what is to be told of a letter that is no job: a reason and a sentence."""
    if letter.refused:
        return _UNDECODABLE, letter.reason.removeprefix(f"{_UNDECODABLE}: ")
    if letter.source.startswith("jobs."):
        return _UNDECODABLE, fault
    return "undeliverable", f"the queue gave it up: {letter.reason}"
