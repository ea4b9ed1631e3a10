"""The worker's side of a task's helpers: one desk per attempt answers its questions. All of it runs in the loop."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from random import Random
from typing import Final, Literal, NamedTuple, Self

import structlog

from consumers.asking import Admit, Begin, End, Free, Publish, Question, Report, Take, Value
from consumers.context import Cancelled
from consumers.grips import Grips
from consumers.outcome import BreakerOpen, GiveUp, Uncertain, put_back
from consumers.patience import until_stored
from consumers.publishing import Publisher
from gateway.errors import GatewayError
from gateway.jobs.effects import MAX_EFFECT, MAX_EFFECTS, EffectStore
from gateway.jobs.records import Holder
from gateway.settings import Settings
from gateway.store.breakers import Breakers, Outcome, Rules
from gateway.store.channels import ChannelStore
from gateway.store.locks import Locks
from gateway.store.redis import Store

log = structlog.get_logger(__name__)

NAME: Final = re.compile(r"[A-Za-z0-9_.:@/-]{1,100}\Z")
MAX_PASSAGES: Final = 1000  # through breakers, at a time

_jitter = Random()  # noqa: S311 - spreads load, guards nothing


class Services(NamedTuple):
    """What all desks of a worker share."""

    effects: EffectStore
    breakers: Breakers
    locks: Locks
    channels: ChannelStore

    @classmethod
    def of(cls, store: Store, settings: Settings) -> Self:
        """Make them on one Redis."""
        return cls(EffectStore(store), Breakers(store), Locks(store), ChannelStore(store, settings))


class _Passage(NamedTuple):
    name: str
    rules: Rules
    generation: int


class Desk:
    """Answers one attempt.

    Args:
        services: the worker's.
        job: what was claimed.
        snoozes: how often this attempt was put back before.
        lease: seconds, of the job.
        on_lost: called with the error when a lock's lease has ended.
        publisher: of the attempt's events.
    """

    def __init__(
        self,
        services: Services,
        job: Holder,
        snoozes: int,
        lease: float,
        on_lost: Callable[[Exception], None],
        publisher: Publisher,
    ) -> None:
        self._services = services
        self._job = job
        self._snoozes = snoozes
        self._publisher = publisher
        self._begun: dict[str, str] = {}  # effects under way, and their tokens
        self._passages: dict[int, _Passage] = {}
        self._count = 0
        self._closed = False
        self.grips = Grips(services.locks, job, snoozes, lease, on_lost)
        self.deadline = float("inf")  # loop time when the attempt times out

    async def ask(self, question: Question) -> Value:
        """Answer.

        Raises:
            GiveUp: a rule is broken (`Uncertain`: an effect may have happened).
            BreakerOpen, LockBusy: not now.
            StaleFence: the job is another worker's.
            Cancelled: the attempt is over.
        """
        if self._closed and isinstance(question, Begin | Admit | Take | Publish):
            raise Cancelled
        match question:
            case Begin():
                return await self._begin(question)
            case End():
                await self._end(question)
            case Admit():
                return await self._admit(question)
            case Report():
                await self._report(question)
            case Take():
                _check_name(question.name)
                left = max(0.0, self.deadline - asyncio.get_running_loop().time())
                return await self.grips.take(question.name, question.ttl, min(question.wait, left))
            case Free():
                await self.grips.free(question.name)
            case Publish():
                return await self._publisher.publish(question)
        return None

    def shut(self) -> None:
        """Nothing new any more: the attempt is over, or nobody wants it."""
        self._closed = True

    async def close(self, *, abandoned: bool) -> None:
        """Settle what the task left open; `abandoned`: its thread may still be at work."""
        self.shut()
        for number in list(self._passages):
            await self._report(Report(number, "cut"))
        if not abandoned:  # else the leases end by themselves
            await self.grips.free_all()
        self.grips.forget()

    async def _begin(self, question: Begin) -> bytes | None:
        _check_name(question.name)
        if question.name in self._begun:
            raise GiveUp(f"the effect {question.name!r} is under way already in this attempt")
        token = self._begun[question.name] = secrets.token_hex(8)
        went_ahead = False
        try:
            begun = await until_stored(
                lambda: self._services.effects.begin(self._job, question.name, token, again=question.again)
            )
            went_ahead = begun.kind == "ok"
        finally:
            if not went_ahead:
                del self._begun[question.name]
        if begun.kind == "unknown":
            raise Uncertain(f"whether {question.name!r} happened is not known: an attempt that began it told no end")
        if begun.kind == "full":
            raise GiveUp(f"a run may have at most {MAX_EFFECTS} effects")
        return begun.result if begun.kind == "done" else None

    async def _end(self, question: End) -> None:
        token = self._begun.pop(question.name, None)
        if token is None or question.happened == "unknown":
            return
        result = (question.result or b"null") if question.happened == "yes" else None
        if result is not None and len(result) > MAX_EFFECT:
            raise GiveUp(f"the result of {question.name!r} has {len(result)} bytes, more than {MAX_EFFECT}")
        await until_stored(lambda: self._services.effects.end(self._job, question.name, token, result))

    async def _admit(self, question: Admit) -> int:
        _check_name(question.name)
        if len(self._passages) >= MAX_PASSAGES:
            raise GiveUp(f"an attempt may have at most {MAX_PASSAGES} calls under way")
        token = secrets.token_hex(8)
        passage = await until_stored(lambda: self._services.breakers.admit(question.name, question.rules, token))
        if passage.wait:
            raise BreakerOpen(
                f"the breaker {question.name!r} is open", after=put_back(passage.wait, self._snoozes, _jitter)
            )
        self._count += 1
        self._passages[self._count] = _Passage(question.name, question.rules, passage.generation)
        return self._count

    async def _report(self, question: Report) -> None:
        """Tell the breaker, if Redis is there: what is not told is as if it had not been tried."""
        passage = self._passages.pop(question.number, None)
        if passage is None:
            return
        name, rules, generation = passage
        try:
            state = await self._services.breakers.report(name, rules, generation, self._judged(question.outcome))
        except GatewayError as error:
            log.warning("breaker.unreported", breaker=name, reason=error.code)
            return
        if state == "open":
            log.warning("breaker.open", breaker=name, job_id=self._job.job_id)

    def _judged(self, outcome: Outcome | Literal["cut"]) -> Outcome:
        """A call that was cut off failed if it used up the attempt's time, and else tells nothing."""
        if outcome == "cut":
            return "failed" if asyncio.get_running_loop().time() >= self.deadline else "void"
        return outcome


def _check_name(name: str) -> None:
    if not NAME.match(name):
        raise GiveUp("a name must be 1 to 100 characters of A-Z a-z 0-9 _ . : @ / -")
