"""Consuming from RabbitMQ: deliveries, and consumers that come back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import ChannelInvalidStateError, ChannelNotFoundEntity
from pamqp.commands import Queue

from gateway.errors import QueueFull, QueueUnavailable
from gateway.jobs.amqp import SETUP_LIMIT, Lost, Signal, driver_errors, keep, open_channel, scratch_channel
from gateway.jobs.consumption import Consumption
from gateway.jobs.model import Priority
from gateway.jobs.queue import Handler, Message, Undecodable, decode
from gateway.jobs.topology import Limits, declare_pool, queue_name

log = structlog.get_logger(__name__)

SUBSCRIBE_TRIES = 10
UNBURIED_NAP = 1.0

Bury = Callable[[AbstractIncomingMessage, str], Awaitable[None]]


async def inspect(connection: AbstractConnection, name: str) -> Queue.DeclareOk | None:
    """Return the broker's numbers about a queue, None when there is no such queue.

    Raises:
        Lost: the connection is gone.
    """
    async with scratch_channel(connection) as amqp_channel:
        try:
            queue = await amqp_channel.declare_queue(name, passive=True)
        except ChannelNotFoundEntity:
            return None
        return queue.declaration_result


async def subscribe(
    connection: AbstractConnection,
    lost: Signal,
    name: str,
    prefetch: int,
    on_message: Callable[[AbstractIncomingMessage], Awaitable[None]],
) -> AbstractChannel:
    """Consume a queue on an AMQP channel of its own, which the caller holds on to; what ends it sets `lost`.

    Raises:
        Lost: the connection is gone.
    """
    amqp_channel = await open_channel(connection, lost=lost)
    underlay = await amqp_channel.get_underlay_channel()
    underlay.on_consumer_cancel_callbacks.add(lambda _: lost.set("the broker cancelled a consumer"))
    await amqp_channel.set_qos(prefetch_count=prefetch)
    queue = await amqp_channel.get_queue(name, ensure=False)
    await queue.consume(on_message)
    return amqp_channel


class _RabbitDelivery:
    def __init__(self, incoming: AbstractIncomingMessage, message: Message, bury: Bury) -> None:
        self._incoming = incoming
        self._message = message
        self._bury = bury
        self._settled = False

    @property
    def message(self) -> Message:
        return self._message

    async def ack(self) -> None:
        await self._settle("ack", self._incoming.ack)

    async def requeue(self) -> None:
        await self._settle("requeue", self._incoming.nack)

    async def reject(self, reason: str) -> None:
        if not self._settled and _came_by_living(self._incoming):
            await _bury_or_requeue(self._incoming, reason, self._bury)
            self._settled = True

    async def _settle(self, how: str, settle: Callable[[], Awaitable[None]]) -> None:
        if self._settled:
            return
        self._settled = True
        await _settle(self._incoming, how, settle)


def _came_by_living(incoming: AbstractIncomingMessage) -> bool:
    try:
        return not incoming.channel.is_closed
    except ChannelInvalidStateError:
        return False


async def _settle(incoming: AbstractIncomingMessage, how: str, settle: Callable[[], Awaitable[None]]) -> None:
    try:
        with driver_errors():
            await settle()
    except Lost as error:
        # It comes again, and meets a job that has ended or is leased.
        log.debug("queue.unsettled", how=how, job_id=incoming.correlation_id, reason=str(error))


async def _bury_or_requeue(incoming: AbstractIncomingMessage, reason: str, bury: Bury) -> None:
    """Acknowledge a message only when the dead letters have it."""
    try:
        await bury(incoming, reason)
    except (QueueFull, QueueUnavailable):
        await asyncio.sleep(UNBURIED_NAP)
        await _settle(incoming, "requeue", incoming.nack)
    else:
        await _settle(incoming, "ack", incoming.ack)


class Subscription(NamedTuple):
    """What to consume, and how.

    Attributes:
        url: the broker.
        pool: the pool.
        prefetch: unsettled deliveries at a time, by class.
        limits: of the queues, which are declared on every connection.
        watch_every: seconds between looks at whether the broker still knows our consumers.
        bury: publishes a delivered message to the dead letters.
    """

    url: str
    pool: str
    prefetch: dict[Priority, int]
    limits: Limits
    watch_every: float
    bury: Bury


class RabbitConsumption(Consumption):
    """The context of `RabbitQueue.consume`: one connection, an AMQP channel per class, made anew when lost."""

    def __init__(self, subscription: Subscription, handler: Handler) -> None:
        super().__init__(handler)
        self._plan = subscription
        self._tries = 0

    async def feed(self) -> None:
        """Consume on one connection after the other."""
        await keep(self._plan.url, f"consumer {self._plan.pool}", self._session)

    async def _session(self, connection: AbstractConnection) -> None:
        lost = Signal()
        lost.watch(connection)
        self._tries += 1
        try:
            with driver_errors():
                async with asyncio.timeout(SETUP_LIMIT):
                    amqp_channels = await self._subscribe(connection, lost)
        except Lost as error:
            if self._tries >= SUBSCRIBE_TRIES:
                raise QueueUnavailable(f"consuming failed {self._tries} times: {error}") from error
            raise
        self._tries = 0
        log.debug("queue.consuming", pool=self._plan.pool, amqp_channels=len(amqp_channels))
        self.opened()
        while True:
            await lost.raised(self._plan.watch_every)
            await self._check(connection)

    async def _subscribe(self, connection: AbstractConnection, lost: Signal) -> list[AbstractChannel]:
        """Consume with an AMQP channel per class: the prefetch is the AMQP channel's."""
        async with scratch_channel(connection) as amqp_channel:
            await declare_pool(amqp_channel, self._plan.pool, self._plan.limits)
        opened = []
        for priority, limit in self._plan.prefetch.items():
            name = queue_name(self._plan.pool, priority)
            opened.append(await subscribe(connection, lost, name, limit, self._on_message))
        return opened

    async def _check(self, connection: AbstractConnection) -> None:
        """Raise `Lost` when the broker does not know our consumers any more, although nobody told."""
        for priority in self._plan.prefetch:
            found = await inspect(connection, queue_name(self._plan.pool, priority))
            if found is None or not found.consumer_count:
                raise Lost(f"the queue {queue_name(self._plan.pool, priority)} has no consumer")

    async def _on_message(self, incoming: AbstractIncomingMessage) -> None:
        try:
            message = decode(incoming.body)
        except Undecodable as error:
            self.spawn(_bury_or_requeue(incoming, f"undecodable: {error}", self._plan.bury))
            return
        self.start(_RabbitDelivery(incoming, message, self._plan.bury))
