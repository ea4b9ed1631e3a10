"""The exchange `events` on RabbitMQ: what any program publishes there."""

from __future__ import annotations

from typing import Any, Final

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelPreconditionFailed

from gateway.errors import ConfigurationError
from gateway.jobs.topology import Limits, declare_dead_letters, queue_arguments

EVENTS: Final = "events"
QUEUE: Final = "gateway.events"
_DEFAULT: Final = Limits()


async def declare_events(amqp_channel: AbstractChannel, limits: Limits = _DEFAULT) -> None:
    """Declare the exchange, its queue and the dead letters.

    Raises:
        ConfigurationError: one of them exists with other properties.
    """
    await declare_dead_letters(amqp_channel)
    try:
        await amqp_channel.declare_exchange(EVENTS, ExchangeType.TOPIC, durable=True)
        arguments: dict[str, Any] = {**queue_arguments(limits), "x-single-active-consumer": True}
        queue = await amqp_channel.declare_queue(QUEUE, durable=True, arguments=arguments)
        await queue.bind(EVENTS, "#")
    except ChannelPreconditionFailed as error:
        raise ConfigurationError(f"RabbitMQ has {EVENTS} or {QUEUE} with other properties: {error}") from None
