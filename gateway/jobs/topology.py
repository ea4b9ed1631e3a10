"""What stands on the broker: names, arguments, declarations.

Arguments are immutable once a queue exists; only an active declaration notices that they differ.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue, HeadersType
from aio_pika.exceptions import ChannelPreconditionFailed

from gateway.errors import ConfigurationError
from gateway.jobs.model import PRIORITIES, Priority
from gateway.jobs.queue import (
    DEAD_LETTER_ID,
    DEAD_LETTER_REASON,
    DEAD_LETTER_SOURCE,
    DEAD_LETTER_TENANT,
    DELIVERY_LIMIT,
    MAX_LENGTH,
)

DIRECT: Final = ""  # the default exchange: a queue's name is the key that leads to it
JOBS: Final = "jobs"
DEAD: Final = "jobs.dead"
DEAD_LETTERS: Final = "jobs.dlq"
MAX_BYTES: Final = 1 << 30
MAX_REASON: Final = 500  # characters

Arguments = dict[str, str | int]


class Limits(NamedTuple):
    """How much a queue takes before it refuses: messages and bytes that are ready."""

    length: int = MAX_LENGTH
    bytes: int = MAX_BYTES


def queue_name(pool: str, priority: Priority) -> str:
    """Return the name of the queue of a class."""
    return f"{JOBS}.{pool}.{priority}"


def routing_key(pool: str, priority: Priority) -> str:
    """Return the key that leads to it from the exchange."""
    return f"{pool}.{priority}"


def queue_arguments(limits: Limits) -> Arguments:
    """Return the arguments of a class' queue.

    Quorum queues refuse `x-max-priority`, hence a queue per class. `reject-publish` turns a full queue into a nack.
    """
    return {
        "x-queue-type": "quorum",
        "x-overflow": "reject-publish",
        "x-max-length": limits.length,
        "x-max-length-bytes": limits.bytes,
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": DEAD,
        "x-dead-letter-strategy": "at-least-once",
    }


# Without a limit: at-least-once dead-lettering would hold the source up.
DEAD_LETTER_ARGUMENTS: Final[Arguments] = {"x-queue-type": "quorum"}


def clean_headers(headers: HeadersType) -> HeadersType:
    """Return the headers without the broker's own account of earlier deaths, which must not travel on."""
    own = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count")
    return {name: value for name, value in headers.items() if not name.startswith(own)}


def burial_headers(headers: HeadersType, reason: str, *, source: str, message_id: str, tenant: str = "") -> HeadersType:
    """Return the headers of a message that goes to the dead letters.

    Args:
        headers: those it came with.
        reason: a sentence; `undecodable: …` when it is not what its queue is for.
        source: the queue it came from.
        message_id: its own id, if it has one.
        tenant: whose it is, if that is known.
    """
    told = {
        DEAD_LETTER_REASON: reason[:MAX_REASON],
        DEAD_LETTER_SOURCE: source,
        DEAD_LETTER_ID: message_id,
        DEAD_LETTER_TENANT: tenant,
    }
    return {**clean_headers(headers), **told}


async def declare_exchanges(amqp_channel: AbstractChannel) -> dict[str, AbstractExchange]:
    """Declare what every process publishes to.

    Raises:
        ConfigurationError: an exchange exists and is another.
    """
    try:
        ours = {
            name: await amqp_channel.declare_exchange(name, ExchangeType.TOPIC, durable=True) for name in (JOBS, DEAD)
        }
    except ChannelPreconditionFailed as error:
        raise ConfigurationError(f"RabbitMQ has an exchange of ours with other properties: {error}") from None
    return {DIRECT: amqp_channel.default_exchange, **ours}


async def declare_dead_letters(amqp_channel: AbstractChannel) -> AbstractQueue:
    """Declare the dead letters' queue, bound.

    Raises:
        ConfigurationError: it exists with other arguments.
    """
    await declare_exchanges(amqp_channel)
    try:
        dead = await amqp_channel.declare_queue(DEAD_LETTERS, durable=True, arguments=dict(DEAD_LETTER_ARGUMENTS))
        await dead.bind(DEAD, "#")
    except ChannelPreconditionFailed as error:
        raise ConfigurationError(f"RabbitMQ has {DEAD_LETTERS} with other arguments: {error}") from None
    return dead


async def declare_pool(amqp_channel: AbstractChannel, pool: str, limits: Limits) -> dict[Priority, AbstractQueue]:
    """Declare the queues of a pool and the dead letters' one, bound.

    Raises:
        ConfigurationError: a queue exists with other arguments.
    """
    await declare_dead_letters(amqp_channel)
    try:
        queues = {}
        for priority in PRIORITIES:
            queue = await amqp_channel.declare_queue(
                queue_name(pool, priority), durable=True, arguments=dict(queue_arguments(limits))
            )
            await queue.bind(JOBS, routing_key(pool, priority))
            queues[priority] = queue
    except ChannelPreconditionFailed as error:
        raise ConfigurationError(f"RabbitMQ has a queue of the pool {pool!r} with other arguments: {error}") from None
    return queues
