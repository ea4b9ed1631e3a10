"""The job queue on RabbitMQ: quorum queues, confirmed publishing, consumers that come back.

Publishing and consuming have connections of their own, so a publisher the broker holds back stops neither deliveries
nor acknowledgements.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Self, cast

import aio_pika
import structlog
from aio_pika import DeliveryMode
from aio_pika.abc import AbstractIncomingMessage, HeadersType

from gateway.errors import QueueUnavailable
from gateway.jobs.amqp import PUBLISH_LIMIT, Lost, Publisher, scratch_channel
from gateway.jobs.model import PRIORITIES
from gateway.jobs.queue import (
    Handler,
    Message,
    Undertaking,
    check_pool,
    check_prefetch,
    encode,
)
from gateway.jobs.rabbitmq_consumer import RabbitConsumption, Subscription, by_queue, inspect
from gateway.jobs.rabbitmq_dead import DEAD_PREFETCH, RabbitDeadConsumption
from gateway.jobs.topology import (
    DEAD,
    DEAD_LETTERS,
    DIRECT,
    JOBS,
    Limits,
    burial_headers,
    clean_headers,
    declare_dead_letters,
    declare_exchanges,
    declare_pool,
    queue_name,
    routing_key,
)

log = structlog.get_logger(__name__)

WATCH_EVERY = 30.0
DECLARE_NAP = 1.0


class RabbitQueue:
    """A `JobQueue` on RabbitMQ. Starts whether the broker is there or not.

    Args:
        url: `amqp://` or `amqps://`.
        limits: of every queue it declares; what exists with others is refused.
        watch_every: seconds between looks at whether the broker still knows our consumers.
    """

    def __init__(self, url: str, *, limits: Limits | None = None, watch_every: float = WATCH_EVERY) -> None:
        self._url = url
        self._limits = limits or Limits()
        self._watch_every = watch_every
        self._publisher = Publisher(url, declare_exchanges)
        self._numbers = itertools.count(1)
        self._group = asyncio.TaskGroup()
        self._publishing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._publishing = self._group.create_task(self._publisher.run())
        try:
            async with asyncio.timeout(PUBLISH_LIMIT):
                await self._publisher.ready()
        except TimeoutError:
            log.warning("queue.away", retrying=True)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._publishing is not None:
            self._publishing.cancel()
        # Without the body's exception: the group would wrap it.
        await self._group.__aexit__(None, None, None)

    async def declare(self, pool: str) -> None:
        """Make the queues of a pool, if they are not there; waits for a broker that is away."""
        check_pool(pool)
        while True:
            try:
                connection = await self._publisher.ready()
                async with scratch_channel(connection) as amqp_channel:
                    await declare_pool(amqp_channel, pool, self._limits)
            except Lost as error:
                log.warning("queue.declare_failed", pool=pool, reason=str(error), retry_in=DECLARE_NAP)
                await asyncio.sleep(DECLARE_NAP)
            else:
                return

    async def publish(self, message: Message) -> None:
        """Hand a message over; returns when the broker has confirmed it."""
        attempt = f"{message.id}:{message.run}:{message.attempt}"
        await self._publisher.publish(
            JOBS,
            routing_key(message.pool, message.priority),
            self._outgoing(
                encode(message),
                # A returned message is matched by its id: the same attempt published twice needs two.
                message_id=f"{attempt}:{next(self._numbers)}",
                correlation_id=message.id,
                type_=message.type,
                headers={"traceparent": message.traceparent},
            ),
        )

    def consume(self, pool: str, prefetch: Mapping[str, int], handler: Handler) -> RabbitConsumption:
        """Receive from a pool's queues inside the context."""
        check_pool(pool)
        declare = partial(declare_pool, pool=pool, limits=self._limits)
        queues = by_queue(pool, check_prefetch(prefetch))
        plan = Subscription(self._url, f"consumer {pool}", queues, declare, self._watch_every)
        return RabbitConsumption(plan, handler, self._bury)

    def consume_dead(self, handler: Undertaking) -> RabbitDeadConsumption:
        """Receive the dead letters inside the context."""
        queues = {DEAD_LETTERS: DEAD_PREFETCH}
        plan = Subscription(self._url, "undertaker", queues, declare_dead_letters, self._watch_every)
        return RabbitDeadConsumption(plan, handler)

    async def resend(self, queue: str, body: bytes, *, headers: Mapping[str, object], content_type: str) -> None:
        """Put a message back into the queue it died in."""
        outgoing = aio_pika.Message(
            body,
            content_type=content_type or None,
            delivery_mode=DeliveryMode.PERSISTENT,
            message_id=f"again:{secrets.token_hex(8)}:{next(self._numbers)}",
            headers=clean_headers(cast("HeadersType", headers)),  # what the broker gave, by way of JSON
        )
        await self._publisher.publish(DIRECT, queue, outgoing)

    async def dead_depth(self) -> int:
        """Return how many dead letters are ready."""
        return (await self._depths([DEAD_LETTERS]))[DEAD_LETTERS]

    async def depth(self, pool: str) -> dict[str, int]:
        """Return how many messages are ready, per class."""
        check_pool(pool)
        found = await self._depths([queue_name(pool, priority) for priority in PRIORITIES])
        return {priority: found[queue_name(pool, priority)] for priority in PRIORITIES}

    async def _depths(self, names: Sequence[str]) -> dict[str, int]:
        if not self._publisher.up:
            raise QueueUnavailable
        try:
            async with asyncio.timeout(PUBLISH_LIMIT):
                connection = await self._publisher.ready()
                found = {name: await inspect(connection, name) for name in names}
        except (Lost, TimeoutError) as error:
            raise QueueUnavailable from error
        return {name: queue.message_count or 0 if queue else 0 for name, queue in found.items()}

    def healthy(self) -> bool:
        """Say whether publishing can work now."""
        return self._publisher.up

    async def _bury(self, incoming: AbstractIncomingMessage, queue: str, reason: str) -> None:
        """Publish what was delivered to the dead letters.

        Raises:
            QueueFull, QueueUnavailable: it may not be there.
        """
        log.warning("queue.dead_letter", message_id=incoming.message_id, job_id=incoming.correlation_id, reason=reason)
        headers = burial_headers(incoming.headers, reason, source=queue, message_id=incoming.message_id or "")
        outgoing = self._outgoing(
            incoming.body,
            message_id=f"dead:{secrets.token_hex(8)}:{next(self._numbers)}",
            correlation_id=incoming.correlation_id,
            type_=incoming.type,
            headers=headers,
        )
        await self._publisher.publish(DEAD, incoming.routing_key or "unknown", outgoing)

    @staticmethod
    def _outgoing(
        body: bytes, *, message_id: str, correlation_id: str | None, type_: str | None, headers: HeadersType
    ) -> aio_pika.Message:
        return aio_pika.Message(
            body,
            content_type="application/json",
            delivery_mode=DeliveryMode.PERSISTENT,
            message_id=message_id,
            correlation_id=correlation_id,
            type=type_,
            headers=headers,
        )
