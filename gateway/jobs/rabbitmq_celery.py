"""Celery on RabbitMQ: its workers' events, and the word to its workers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import aio_pika
import msgspec
from aio_pika import DeliveryMode, ExchangeType
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from gateway.errors import ConfigurationError
from gateway.jobs.amqp import Signal, keep, scratch_channel

EVENTS: Final = "celeryev"
CONTROL: Final = "celery.pidbox"
MAX_LENGTH: Final = 200_000
MAX_BYTES: Final = 256 * 1024 * 1024

Command = Mapping[str, Any]
Send = Callable[[Sequence[Command]], Awaitable[bool]]


async def declare_celery_events(amqp_channel: AbstractChannel, queue: str) -> None:
    """Declare our queue of task events.

    It is capped, and full it drops the oldest: Celery's workers are never held up by us.

    Raises:
        ConfigurationError: a queue of that name exists with other arguments.
    """
    try:
        # As kombu does; an application may have made it with other properties, and then it is there.
        await amqp_channel.declare_exchange(EVENTS, ExchangeType.TOPIC, passive=True)
    except ChannelNotFoundEntity:
        await amqp_channel.reopen()
        await amqp_channel.declare_exchange(EVENTS, ExchangeType.TOPIC, durable=True)
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-overflow": "drop-head",
        "x-max-length": MAX_LENGTH,
        "x-max-length-bytes": MAX_BYTES,
    }
    try:
        declared = await amqp_channel.declare_queue(queue, durable=True, arguments=arguments)
    except ChannelPreconditionFailed as error:
        raise ConfigurationError(f"RabbitMQ has a queue {queue} with other properties: {error}") from None
    await declared.bind(EVENTS, "task.#")


class CeleryControl:
    """Broadcasts commands to the workers.

    Args:
        url: the broker.
        every: seconds between rounds.
        say: called in every round; what it is given sends commands, and says whether there was anybody to hear them.
    """

    def __init__(self, url: str, every: float, say: Callable[[Send], Awaitable[None]]) -> None:
        self._url = url
        self._every = every
        self._say = say

    async def run(self) -> None:
        """Go round until cancelled."""
        await keep(self._url, "celery control", self._session)

    async def _session(self, connection: AbstractConnection) -> None:
        lost = Signal()
        lost.watch(connection)
        while True:
            await self._say(partial(_broadcast, connection))
            await lost.raised(self._every)


async def _broadcast(connection: AbstractConnection, commands: Sequence[Command]) -> bool:
    async with scratch_channel(connection) as amqp_channel:
        try:
            exchange = await amqp_channel.declare_exchange(CONTROL, ExchangeType.FANOUT, passive=True)
        except ChannelNotFoundEntity:
            return False  # no worker has ever been there
        for command in commands:
            await exchange.publish(_message(command), "", mandatory=False)
    return True


def _message(command: Command) -> aio_pika.Message:
    """Write a command as kombu's mailbox does."""
    body = {"destination": None, "pattern": None, "matcher": None, **command}
    return aio_pika.Message(
        msgspec.json.encode(body),
        content_type="application/json",
        content_encoding="utf-8",
        delivery_mode=DeliveryMode.NOT_PERSISTENT,
        headers={"clock": 1, "expires": 0},
    )
