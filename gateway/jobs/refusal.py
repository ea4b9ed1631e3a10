"""What a submitter who is refused is told, and when to come back."""

from __future__ import annotations

from random import Random

from gateway.errors import (
    FieldError,
    GatewayError,
    IdempotencyInFlight,
    IdempotencyMismatch,
    Overloaded,
    QueueFull,
    QuotaExceeded,
    UnknownTaskType,
)
from gateway.jobs.pressure import over, retry_after, room
from gateway.jobs.queue import Message
from gateway.jobs.store import JobStore
from gateway.settings import Settings

_random = Random()  # noqa: S311 - spreads those who come back, guards nothing


class Refusals:
    """Makes errors of what the scripts answer; asks Redis how fast jobs end."""

    def __init__(self, store: JobStore, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    async def of(self, kind: str, tenant: str, type_: str) -> GatewayError:
        """Return the error for an answer of submit.lua that accepts nothing."""
        match kind:
            case "unknown-type":
                return UnknownTaskType(errors=[FieldError("/type", f"no worker has registered {type_!r}")])
            case "quota":
                return await self.quota(tenant)
            case "overloaded":
                pressure = await self._store.pressure(tenant)
                return Overloaded(
                    retry_after=retry_after(over(pressure, self._settings.max_due), pressure.ended, _random)
                )
            case "mismatch":
                return IdempotencyMismatch()
            case "in-flight":
                return IdempotencyInFlight(retry_after=1)
            case _:
                raise AssertionError(kind)

    async def quota(self, tenant: str) -> QuotaExceeded:
        """Return the error for a tenant that has all the open jobs it may have."""
        pressure = await self._store.pressure(tenant, tenant=tenant)
        seconds = retry_after(over(pressure, self._settings.max_open_jobs), pressure.ended, _random)
        return QuotaExceeded("the tenant has too many open jobs", retry_after=seconds)

    async def full(self, message: Message) -> QueueFull:
        """Return the error for a job that its queue refused."""
        pressure = await self._store.pressure(message.tenant, pool=message.pool, priority=message.priority)
        return QueueFull(retry_after=retry_after(room(pressure), pressure.ended, _random))
