"""What a context offers besides the facts of its job: effects that happen once, breakers, locks, events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from consumers.asking import Publish, Question, Value
from consumers.breaker import Breaker
from consumers.effects import once, once_sync
from consumers.locks import Lock
from consumers.outcome import GiveUp, encode_result
from gateway.store.breakers import Rules


class Helpers:
    """The part of a context that is the same in the loop, in threads and in processes.

    Names are 1 to 100 characters of A-Z a-z 0-9 _ . : @ / -. A rule that is broken is a `GiveUp`.
    """

    job_id: str
    run: int

    async def ask(self, question: Question) -> Value:
        """Ask the worker, from the loop. For the helpers."""
        raise NotImplementedError

    def ask_sync(self, question: Question) -> Value:
        """Ask the worker, from a thread or a process. For the helpers."""
        raise NotImplementedError

    @property
    def idempotency_key(self) -> str:
        """Names this run of the job: the same in all its attempts, another when the ended job is run again."""
        return f"{self.job_id}-{self.run}"

    async def once(self, name: str, function: Callable[[str], Awaitable[object]], *, idempotent: bool = False) -> Any:  # noqa: ANN401 - JSON
        """Do something once in this run, and return its result (JSON, at most 16 KiB): the recorded one ever after.

        `function` gets `<idempotency_key>-<name>`. What it begins is recorded before, what it returns after. If an
        attempt ended between the two, whether it happened is not known: with `idempotent` (the receiver recognises
        the key) it is done again, without it the job fails. So it does if `function` raised, except `Retry`, `Snooze`
        or `GiveUp`, by which it says that nothing happened.

        Raises:
            Uncertain: it may have happened before; the job fails, and no other attempt is made.
            GiveUp: the name, the result or the number of effects (64) breaks a rule.
            Cancelled: the job is no longer this attempt's.
        """
        return await once(self, name, f"{self.idempotency_key}-{name}", function, again=idempotent)

    def once_sync(self, name: str, function: Callable[[str], object], *, idempotent: bool = False) -> Any:  # noqa: ANN401 - JSON
        """Do the same from a task in a thread or a process."""
        return once_sync(self, name, f"{self.idempotency_key}-{name}", function, again=idempotent)

    def breaker(self, name: str, *, ignore: tuple[type[Exception], ...] = (), **rules: float) -> Breaker:
        """Return a circuit breaker of the whole deployment: `async with`, or in a thread or process `with`.

        Entering it while it is open raises `BreakerOpen`, which puts the job back until it will be tried again.

        Args:
            name: the dependency's; with the tenant in it if each has one of its own.
            ignore: errors that are proper answers of the dependency.
            rules: those of `gateway.store.breakers.Rules`, the same wherever the name is used.

        Raises:
            GiveUp: a rule makes no sense.
        """
        try:
            return Breaker(self, name, Rules(**rules), ignore)  # type: ignore[arg-type] # whole numbers stay whole
        except (TypeError, ValueError) as error:
            raise GiveUp(str(error)) from error

    def lock(self, name: str, *, ttl: float | None = None, wait: float = 0) -> Lock:
        """Return a lock of the tenant: `async with … as fence`, or in a thread or process `with … as fence`.

        The fence is larger than every one before. While it is held the worker extends its lease; should the lease end
        all the same, the task is cancelled (`LockLost`). Entering raises `LockBusy`, which puts the job back.

        Args:
            name: the lock's, within the tenant.
            ttl: seconds until others may have it after this worker died; at least, and usually, a job's lease.
            wait: seconds to wait for it here, holding the worker's slot, before the job is put back.
        """
        return Lock(self, name, ttl, wait)

    async def publish(
        self,
        channels: str | Sequence[str],
        type_: str,
        data: object = None,
        *,
        event_id: str | None = None,
        subject: str | None = None,
    ) -> str:
        """Publish an event to channels of the tenant, under the rules of `POST /v1/events`; returns its id.

        Args:
            channels: one name, or up to 64; neither `jobs` nor `job:…`.
            type_: with a dot in it; neither `job.…` nor `gateway.…`.
            data: JSON; the event may have 256 KiB.
            event_id: makes it idempotent: a channel that has had it in the last five minutes gets it no second time.
                Made of `idempotency_key`, it is the same in every attempt.
            subject: CloudEvents `subject`.

        Raises:
            GiveUp: a rule is broken.
            Cancelled: the job is no longer this attempt's.
        """
        return _text(await self.ask(_publication(channels, type_, data, event_id, subject)))

    def publish_sync(
        self,
        channels: str | Sequence[str],
        type_: str,
        data: object = None,
        *,
        event_id: str | None = None,
        subject: str | None = None,
    ) -> str:
        """Do the same from a task in a thread or a process."""
        return _text(self.ask_sync(_publication(channels, type_, data, event_id, subject)))


def _publication(
    channels: str | Sequence[str], type_: str, data: object, event_id: str | None, subject: str | None
) -> Publish:
    names = (channels,) if isinstance(channels, str) else tuple(channels)
    return Publish(names, type_, encode_result(data, "data"), event_id, subject)


def _text(answer: Value) -> str:
    if not isinstance(answer, bytes):
        raise TypeError(answer)
    return answer.decode()
