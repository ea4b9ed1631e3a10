"""Messages of other programs from one queue of RabbitMQ, in order, a batch at a time.

One consumer at a time gets them (`x-single-active-consumer`), so their order survives several processes. Nothing is
acknowledged before the batch has been dealt with: what a dead process held comes again, first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from gateway.jobs.amqp import SETUP_LIMIT, Lost, Signal, driver_errors, keep, scratch_channel
from gateway.jobs.queue import Incoming
from gateway.jobs.rabbitmq_consumer import check_consumed, subscribe

log = structlog.get_logger(__name__)

PREFETCH: Final = 200  # messages held here; each at most what the broker takes
WATCH_EVERY: Final = 30.0
STOP_LIMIT: Final = 5.0  # seconds a batch in hand gets when the process stops; what is not done comes again

Declare = Callable[[AbstractChannel], Awaitable[None]]
# Deals with messages in the order in which they arrived; returns when all of them may be forgotten. What it raises ends
# the intake.
Handler = Callable[[Sequence[Incoming]], Awaitable[None]]


class Intake:
    """Consumes one queue, one connection after the other.

    Args:
        url: the broker.
        queue: its name.
        declare: sees to it that it is there, on every connection.
        handler: deals with a batch.
        watch_every: seconds between looks at whether the broker still knows the consumer.
    """

    def __init__(
        self, url: str, queue: str, declare: Declare, handler: Handler, *, watch_every: float = WATCH_EVERY
    ) -> None:
        self._url = url
        self._queue = queue
        self._declare = declare
        self._handler = handler
        self._watch_every = watch_every
        self._stopping = asyncio.Event()
        self._batch = asyncio.Lock()  # held while a batch is being dealt with

    def stop(self) -> None:
        """Ask `run` to return after the batch in hand."""
        self._stopping.set()

    async def run(self) -> None:
        """Consume until stopped or cancelled.

        Raises:
            ConfigurationError: in a group; what is declared exists with other properties.
        """
        async with asyncio.TaskGroup() as tasks:
            consuming = tasks.create_task(keep(self._url, f"intake {self._queue}", self._session))
            await self._stopping.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_LIMIT):
                    await self._batch.acquire()
            consuming.cancel()

    async def _session(self, connection: AbstractConnection) -> None:
        lost = Signal()
        lost.watch(connection)
        arrivals = _Arrivals(lost)
        with driver_errors():
            async with asyncio.timeout(SETUP_LIMIT):
                async with scratch_channel(connection) as amqp_channel:
                    await self._declare(amqp_channel)
                # Referenced until the session ends: the driver holds AMQP channels weakly.
                held = await subscribe(connection, lost, self._queue, PREFETCH, arrivals.add)
        log.info("intake.consuming", queue=self._queue, amqp_channel=held.number)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._work(arrivals))
                await self._watch(connection, lost)
        except BaseExceptionGroup as group:
            _, other = group.split(Lost)
            if other is not None:
                raise other from None
            raise Lost(str(group.exceptions[0])) from None

    async def _watch(self, connection: AbstractConnection, lost: Signal) -> None:
        """Look after the consumer; raises `Lost` when it is gone."""
        while True:
            await lost.raised(self._watch_every)
            await check_consumed(connection, self._queue)

    async def _work(self, arrivals: _Arrivals) -> None:
        while True:
            batch = await arrivals.take()
            async with self._batch:
                await self._handler([_incoming(incoming) for incoming in batch])
                with driver_errors():
                    await batch[-1].ack(multiple=True)


class _Arrivals:
    """What has been delivered and not yet been taken, in order; bounded by the prefetch."""

    def __init__(self, lost: Signal) -> None:
        self._lost = lost
        self._waiting: list[AbstractIncomingMessage] = []
        self._news = asyncio.Event()
        self._last = 0

    async def add(self, incoming: AbstractIncomingMessage) -> None:
        tag = incoming.delivery_tag or 0
        if tag != self._last + 1:
            # Acknowledging up to a tag, and the order, rest on this.
            self._lost.set(f"delivery {tag} came after {self._last}")
            return
        self._last = tag
        self._waiting.append(incoming)
        self._news.set()

    async def take(self) -> list[AbstractIncomingMessage]:
        """Wait for something, and return all there is."""
        await self._news.wait()
        self._news.clear()
        taken, self._waiting = self._waiting, []
        return taken


def _incoming(incoming: AbstractIncomingMessage) -> Incoming:
    return Incoming(
        incoming.body,
        incoming.routing_key or "",
        incoming.content_type or "",
        incoming.headers,
        incoming.message_id or "",
        incoming.type or "",
        incoming.app_id or "",
    )
