"""Consuming from RabbitMQ: deliveries, and consumers that come back."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import NamedTuple

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import ChannelInvalidStateError, ChannelNotFoundEntity
from pamqp.commands import Queue

from gateway.errors import QueueFull, QueueUnavailable
from gateway.jobs.amqp import SETUP_LIMIT, Lost, Signal, driver_errors, keep, open_channel, scratch_channel
from gateway.jobs.consumption import Consumption, D
from gateway.jobs.model import Priority
from gateway.jobs.queue import Delivery, Handler, Message, Undecodable, decode
from gateway.jobs.topology import queue_name

log = structlog.get_logger(__name__)

SUBSCRIBE_TRIES = 10
UNBURIED_NAP = 1.0

# Publishes what was delivered from a queue to the dead letters, with the reason.
Bury = Callable[[AbstractIncomingMessage, str, str], Awaitable[None]]


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


async def check_consumed(connection: AbstractConnection, name: str) -> None:
    """Raise `Lost` when the broker knows of no consumer of a queue, although nobody told."""
    found = await inspect(connection, name)
    if found is None or not found.consumer_count:
        raise Lost(f"the queue {name} has no consumer")


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
    def __init__(
        self, incoming: AbstractIncomingMessage, message: Message, bury: Callable[[str], Awaitable[None]]
    ) -> None:
        self._incoming = incoming
        self._message = message
        self._bury = bury
        self._settled = False

    @property
    def message(self) -> Message:
        return self._message

    @property
    def about(self) -> Mapping[str, str]:
        return {"job_id": self._message.id, "tenant": self._message.tenant}

    async def ack(self) -> None:
        await self._settle("ack", self._incoming.ack)

    async def requeue(self) -> None:
        await self._settle("requeue", self._incoming.nack)

    async def reject(self, reason: str) -> None:
        if not self._settled and _came_by_living(self._incoming):
            await _bury_or_requeue(self._incoming, partial(self._bury, reason))
            self._settled = True

    async def _settle(self, how: str, settle: Callable[[], Awaitable[None]]) -> None:
        if self._settled:
            return
        self._settled = True
        await settle_if_living(self._incoming, how, settle)


def _came_by_living(incoming: AbstractIncomingMessage) -> bool:
    try:
        return not incoming.channel.is_closed
    except ChannelInvalidStateError:
        return False


async def settle_if_living(incoming: AbstractIncomingMessage, how: str, settle: Callable[[], Awaitable[None]]) -> None:
    """Settle; when the connection it came by is gone nothing happens."""
    try:
        with driver_errors():
            await settle()
    except Lost as error:
        # It comes again, and meets a job that has ended or is leased.
        log.debug("queue.unsettled", how=how, job_id=incoming.correlation_id, reason=str(error))


async def _bury_or_requeue(incoming: AbstractIncomingMessage, bury: Callable[[], Awaitable[None]]) -> None:
    """Acknowledge a message only when the dead letters have it."""
    try:
        await bury()
    except (QueueFull, QueueUnavailable):
        await asyncio.sleep(UNBURIED_NAP)
        await settle_if_living(incoming, "requeue", incoming.nack)
    else:
        await settle_if_living(incoming, "ack", incoming.ack)


class Subscription(NamedTuple):
    """What to consume, and how.

    Attributes:
        url: the broker.
        name: of the connection.
        prefetch: unsettled deliveries at a time, by queue.
        declare: makes the queues, on every connection.
        watch_every: seconds between looks at whether the broker still knows our consumers.
    """

    url: str
    name: str
    prefetch: Mapping[str, int]
    declare: Callable[[AbstractChannel], Awaitable[object]]
    watch_every: float


class Subscriber(Consumption[D]):
    """Consumes on one connection, with an AMQP channel per queue; all of it is made anew when lost."""

    def __init__(self, subscription: Subscription, handler: Callable[[D], Awaitable[None]]) -> None:
        super().__init__(handler)
        self._plan = subscription
        self._tries = 0

    @abstractmethod
    async def on_message(self, queue: str, incoming: AbstractIncomingMessage) -> None:
        """Take what came from a queue: `start` a delivery, or `spawn` what becomes of it."""

    async def feed(self) -> None:
        """Consume on one connection after the other."""
        await keep(self._plan.url, self._plan.name, self._session)

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
        log.debug("queue.consuming", connection=self._plan.name, amqp_channels=len(amqp_channels))
        self.opened()
        while True:
            await lost.raised(self._plan.watch_every)
            await self._check(connection)

    async def _subscribe(self, connection: AbstractConnection, lost: Signal) -> list[AbstractChannel]:
        """Consume with an AMQP channel per queue: the prefetch is the AMQP channel's."""
        async with scratch_channel(connection) as amqp_channel:
            await self._plan.declare(amqp_channel)
        opened = []
        for name, limit in self._plan.prefetch.items():
            opened.append(await subscribe(connection, lost, name, limit, partial(self.on_message, name)))
        return opened

    async def _check(self, connection: AbstractConnection) -> None:
        """Raise `Lost` when the broker does not know our consumers any more."""
        for name in self._plan.prefetch:
            await check_consumed(connection, name)


class RabbitConsumption(Subscriber[Delivery]):
    """The context of `RabbitQueue.consume`."""

    def __init__(self, subscription: Subscription, handler: Handler, bury: Bury) -> None:
        super().__init__(subscription, handler)
        self._bury = bury

    async def on_message(self, queue: str, incoming: AbstractIncomingMessage) -> None:
        """Deliver a message; what is none goes to the dead letters."""
        bury = partial(self._bury, incoming, queue)
        try:
            message = decode(incoming.body)
        except Undecodable as error:
            self.spawn(_bury_or_requeue(incoming, partial(bury, f"undecodable: {error}")))
            return
        self.start(_RabbitDelivery(incoming, message, bury))


def by_queue(pool: str, prefetch: Mapping[Priority, int]) -> dict[str, int]:
    """Return the prefetch by the names of the queues."""
    return {queue_name(pool, priority): limit for priority, limit in prefetch.items()}
