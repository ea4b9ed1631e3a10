"""The implementations of the job queue, for the suite that runs on all of them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Literal

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError

from gateway.jobs.local import LocalQueue
from gateway.jobs.queue import JobQueue, decode
from gateway.jobs.rabbitmq import RabbitQueue
from gateway.jobs.topology import DEAD_LETTERS, Limits
from tests.support.waiting import eventually

SHORT = 3


class Broker(ABC):
    """An implementation under test, and what only its side can tell."""

    name: Literal["local", "rabbit"]

    def __init__(self, stack: AsyncExitStack) -> None:
        self.stack = stack

    @abstractmethod
    async def open(self, *, short: bool = False) -> JobQueue:
        """A queue on the same broker; a short one refuses early."""

    @abstractmethod
    async def dead_letters(self) -> dict[str, str]:
        """Ids of dead jobs, and why."""


class Local(Broker):
    name = "local"
    queue: LocalQueue | None = None

    async def open(self, *, short: bool = False) -> JobQueue:
        if self.queue is None:
            queue = LocalQueue(max_length=SHORT) if short else LocalQueue()
            self.queue = await self.stack.enter_async_context(queue)
        return self.queue

    async def dead_letters(self) -> dict[str, str]:
        assert self.queue is not None
        return {dead.message.id: dead.reason for dead in self.queue.dead}


class Rabbit(Broker):
    name = "rabbit"

    def __init__(self, stack: AsyncExitStack, url: str) -> None:
        super().__init__(stack)
        self.url = url
        self.dead: dict[str, str] = {}

    async def open(self, *, short: bool = False) -> JobQueue:
        limits = Limits(length=SHORT) if short else None
        return await self.stack.enter_async_context(RabbitQueue(self.url, limits=limits))

    async def dead_letters(self) -> dict[str, str]:
        async with await aio_pika.connect(self.url) as connection, connection.channel() as amqp_channel:
            queue = await amqp_channel.get_queue(DEAD_LETTERS, ensure=False)
            while (incoming := await queue.get(fail=False)) is not None:
                reason = incoming.headers.get("x-reason") or incoming.headers.get("x-first-death-reason")
                self.dead[decode(incoming.body).id] = str(reason).replace("_", "-")
                await incoming.ack()
        return self.dead


@asynccontextmanager
async def plain(url: str) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(url) as connection, connection.channel() as amqp_channel:
        yield amqp_channel


async def dead_letter(url: str, marker: bytes) -> AbstractIncomingMessage:
    """The dead letter whose body holds the marker, when it is there."""
    async with plain(url) as amqp_channel:
        queue = await amqp_channel.get_queue(DEAD_LETTERS, ensure=False)

        async def found() -> AbstractIncomingMessage | None:
            incoming = await queue.get(fail=False)
            if incoming is not None:
                await incoming.ack()
            return incoming if incoming is not None and marker in incoming.body else None

        incoming = await eventually(found)
        assert incoming is not None
        return incoming


def forget_dead_letters(url: str) -> None:
    """Empty the dead letters of a shared broker: an undertaker would deal with what earlier tests left there."""

    async def forget() -> None:
        with suppress(OSError, AMQPError):  # there is no broker, or nobody has declared the queue
            async with plain(url) as amqp_channel:
                queue = await amqp_channel.get_queue(DEAD_LETTERS, ensure=True)
                await queue.purge()

    # The test may have a loop of its own.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, forget()).result()
