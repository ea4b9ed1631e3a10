"""The queue port: how a job that may run gets to a worker. RabbitMQ and an in-process queue implement it.

A *pool* has one queue per priority class, each with a prefetch of its own, so none starves another. Delivery is at
least once: a message comes again until it is settled, and who receives it finds out in the store whether there is
anything left to do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Final, NamedTuple, Protocol, Self

import msgspec

from gateway.errors import ConfigurationError
from gateway.jobs.model import POOL, PRIORITIES, TYPE, Priority

DEAD_LETTER_REASON: Final = "x-reason"  # the AMQP header that says why a worker sent a message to the dead letters
DEAD_LETTER_SOURCE: Final = "x-source"  # likewise, from which queue
DEAD_LETTER_ID: Final = "x-message-id"  # likewise, the message's own id
DEAD_LETTER_TENANT: Final = "x-tenant"  # likewise, whose it is, if that is known
DELIVERY_LIMIT: Final = 20  # a backstop: crashes are counted in the store, long before this
MAX_LENGTH: Final = 50_000  # messages ready per queue; past it a publisher is refused

_Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a job, with all a worker needs to rebuild the job should Redis have lost it.

    Attributes:
        id: the job's id.
        tenant: whose job it is.
        type: which task runs it.
        pool: whose workers run it.
        priority: the class within the pool.
        run: 1, 2, 3 … per job; an ended job can be run again.
        attempt: 1, 2, 3 … per run.
        input: the task's input, JSON, at most 256 KiB.
        traceparent: W3C trace context of the job.
        created_at: when the job was accepted, milliseconds since 1970.
        channels: all channels the job's events go to, besides its own.
        owner: the subject the job belongs to.
        max_attempts: tries until the job is dead.
        timeout: seconds one attempt may take.
        unique: the key under which it is the only open job of its type.
    """

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    tenant: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
    type: Annotated[str, msgspec.Meta(max_length=100, pattern=f"^{TYPE.pattern}")]
    pool: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
    priority: Priority
    run: _Count
    attempt: _Count
    input: msgspec.Raw
    traceparent: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")]
    created_at: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
    channels: tuple[str, ...] = ()
    owner: str | None = None
    max_attempts: _Count = 5
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 300
    unique: str | None = None


class Incoming(NamedTuple):
    """A message of another program, as it came.

    Attributes:
        body: its bytes.
        routing_key: what it was published with.
        content_type: the property, or empty.
        headers: by name.
        message_id: the property, or empty.
        type: the property, or empty.
        app_id: the property, or empty.
    """

    body: bytes
    routing_key: str
    content_type: str = ""
    headers: Mapping[str, Any] = {}
    message_id: str = ""
    type: str = ""
    app_id: str = ""


class Letter(NamedTuple):
    """A message that ended in the dead letters.

    Attributes:
        body: a `Message`, unless it is undecodable.
        reason: a worker's sentence, or the queue's own word.
        refused: a worker refused it; else nobody could be given it.
        source: the queue it was in.
        headers: its headers, and what the broker says of its death (`x-death`).
        message_id: the sender's, if there is one.
        content_type: likewise.
        tenant: whose it is, where a worker knew although it is no `Message`.
    """

    body: bytes
    reason: str
    refused: bool
    source: str
    headers: Mapping[str, Any] = {}
    message_id: str = ""
    content_type: str = ""
    tenant: str = ""


class Returnable(Protocol):
    """What a consumer was given, and may give back."""

    @property
    def about(self) -> Mapping[str, str]:
        """What a log line says of it."""
        ...

    async def requeue(self) -> None:
        """Somebody shall get it again."""
        ...


class DeadDelivery(Returnable, Protocol):
    """A dead letter in the undertaker's hands. The first settlement counts."""

    @property
    def letter(self) -> Letter:
        """What was delivered."""
        ...

    async def ack(self) -> None:
        """It has been recorded."""
        ...


class Delivery(Returnable, Protocol):
    """A message in a consumer's hands. The first settlement counts; later ones do nothing.

    Where the connection it came by is gone, settling does nothing either: the message comes again, and the store knows
    what became of it.
    """

    @property
    def message(self) -> Message:
        """What was delivered."""
        ...

    async def ack(self) -> None:
        """The message has been dealt with."""
        ...

    async def requeue(self) -> None:
        """Somebody shall get it again, at once; after `DELIVERY_LIMIT` times it is dead."""
        ...

    async def reject(self, reason: str) -> None:
        """It can never be dealt with: to the dead letters, with the reason."""
        ...


Handler = Callable[[Delivery], Awaitable[None]]
Undertaking = Callable[[DeadDelivery], Awaitable[None]]


class JobQueue(Protocol):
    """Where messages wait for a worker. An async context manager: usable inside it."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def declare(self, pool: str) -> None:
        """Make the queues of a pool, if they are not there. Waits, as long as it takes, for a broker that is away.

        Raises:
            ConfigurationError: the pool's name cannot be one, or its queues exist with other properties.
        """
        ...

    async def publish(self, message: Message) -> None:
        """Hand a message over; returns when it is safe with the queue. Takes at most 2 seconds.

        Raises:
            QueueFull: it was refused; it is not in the queue.
            QueueUnavailable: whether it is in the queue is unknown.
        """
        ...

    def consume(self, pool: str, prefetch: Mapping[str, int], handler: Handler) -> AbstractAsyncContextManager[None]:
        """Receive from a pool's queues inside the context; entering waits until messages can come.

        Each delivery gets a task that runs the handler. A handler that raises gets its message requeued. A message that
        cannot be decoded goes to the dead letters. A lost connection is repaired; handlers that run meanwhile go on.
        Leaving cancels the handlers, and whatever is not settled goes back to the queue.

        Args:
            pool: the pool.
            prefetch: by class, how many deliveries may be unsettled at a time.
            handler: settles the delivery.

        Raises:
            ConfigurationError: as `declare`.
            QueueUnavailable: the broker is there, and consuming failed again and again.
        """
        ...

    def consume_dead(self, handler: Undertaking) -> AbstractAsyncContextManager[None]:
        """Receive the dead letters of all pools inside the context, as `consume` does messages."""
        ...

    async def dead_depth(self) -> int:
        """Return how many dead letters wait for the undertaker; raises as `depth`."""
        ...

    async def resend(self, queue: str, body: bytes, *, headers: Mapping[str, object], content_type: str) -> None:
        """Put a message that is none of ours back into the queue it died in; raises as `publish`.

        Raises:
            Conflict: this kind of queue holds no such messages.
        """
        ...

    async def depth(self, pool: str) -> dict[str, int]:
        """Return how many messages are ready, per class; 0 for a queue that does not exist.

        Raises:
            QueueUnavailable: the broker is away.
        """
        ...

    def healthy(self) -> bool:
        """Say whether publishing can work now."""
        ...


class Undecodable(Exception):
    """A message body is not a `Message`; the text says why."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Message)


def encode(message: Message) -> bytes:
    """Write a message as JSON."""
    return _encoder.encode(message)


def decode(body: bytes) -> Message:
    """Read a message.

    Raises:
        Undecodable: it is not one.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Undecodable(str(error)) from error


def check_pool(pool: str) -> None:
    """Raise `ConfigurationError` for a name no pool can have."""
    if not POOL.match(pool):
        raise ConfigurationError(f"the pool {pool!r} must be named with 1 to 64 characters of A-Z a-z 0-9 _ -")


def check_prefetch(prefetch: Mapping[str, int]) -> dict[Priority, int]:
    """Return the prefetch of every class that has one.

    Raises:
        ValueError: a class is unknown, or a number is not positive.
    """
    if not prefetch or not set(prefetch) <= set(PRIORITIES) or min(prefetch.values()) < 1:
        raise ValueError(f"prefetch must give positive numbers for some of {', '.join(PRIORITIES)}: {prefetch}")
    return {priority: prefetch[priority] for priority in PRIORITIES if priority in prefetch}
