"""A bystander on the broker who gets a copy of every message of a pool, and delivers it again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from gateway.jobs.model import PRIORITIES
from gateway.jobs.topology import JOBS, queue_name, routing_key


class Copier:
    """Delivers a copy of every message at once, and later all of them once more.

    Attributes:
        delivered: copies so far.
    """

    def __init__(self, amqp_channel: AbstractChannel, pool: str) -> None:
        self._amqp_channel = amqp_channel
        self._queues = {routing_key(pool, priority): queue_name(pool, priority) for priority in PRIORITIES}
        self._kept: list[tuple[str, bytes]] = []
        self.delivered = 0

    async def on_message(self, incoming: AbstractIncomingMessage) -> None:
        queue = self._queues[incoming.routing_key or ""]
        self._kept.append((queue, incoming.body))
        await self._deliver(queue, incoming.body)
        await incoming.ack()

    @property
    def kept(self) -> int:
        """How many messages were published."""
        return len(self._kept)

    async def again(self) -> None:
        """Deliver copies of all messages seen so far, the oldest first."""
        for queue, body in self._kept[:]:
            await self._deliver(queue, body)

    async def _deliver(self, queue: str, body: bytes) -> None:
        # Straight into the queue: through the exchange it would come back here.
        await self._amqp_channel.default_exchange.publish(aio_pika.Message(body), queue)
        self.delivered += 1


@asynccontextmanager
async def copying(amqp_url: str, pool: str) -> AsyncIterator[Copier]:
    """Copy all messages of a pool."""
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as amqp_channel:
        await amqp_channel.set_qos(prefetch_count=50)
        queue = await amqp_channel.declare_queue(exclusive=True)
        await queue.bind(JOBS, f"{pool}.*")
        copier = Copier(amqp_channel, pool)
        await queue.consume(copier.on_message)
        yield copier
