"""AMQP connections that are kept: when anything on one is lost, all of it is made anew.

aio-pika's robust connections repair exchanges, queues and consumers one by one, and can end half repaired: a consumer
that is gone while all looks well, a declaration that fails for ever. Here a *session* is a plain connection with
everything on it; it works or it is replaced.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import parse_qs, urlsplit

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError, DeliveryError, PublishError
from pamqp.exceptions import PAMQPException

from gateway.errors import QueueFull, QueueUnavailable

log = structlog.get_logger(__name__)

PUBLISH_LIMIT = 2.0
CONNECT_LIMIT = 5.0
SETUP_LIMIT = 10.0
CLOSE_LIMIT = 3.0
HEARTBEAT = 10  # seconds; a silent peer is given up after three of them
FIRST_NAP = 0.1
LONGEST_NAP = 2.0
STEADY = 20.0  # a session that lasted so long was a good one: longer than the limits of connecting and setting up


class Lost(Exception):
    """A connection, or something on it, is gone or does not answer."""


Session = Callable[[AbstractConnection], Awaitable[None]]


@contextmanager
def driver_errors() -> Iterator[None]:
    """Turn what the driver raises about a connection that is gone into `Lost`; a refused message stays what it is."""
    try:
        yield
    except asyncio.CancelledError as error:
        # The driver cancels what waits on a connection it closes. A cancellation meant for us shows in the task.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Lost("closed") from error
    except DeliveryError:
        raise
    except (AMQPError, ChannelInvalidStateError, PAMQPException, OSError, EOFError, StopAsyncIteration) as error:
        raise Lost(str(error) or type(error).__name__) from error


class Signal:
    """Set once, when something of a session is gone. Give `watch` to what may go."""

    def __init__(self) -> None:
        self._gone = asyncio.Event()
        self._why = "closed"

    def watch(self, *what: AbstractConnection | AbstractChannel) -> None:
        """Be set when one of these is closed, whoever closed it."""
        for closable in what:
            closable.close_callbacks.add(self._on_close)

    def _on_close(self, _: object, error: BaseException | None) -> None:
        self.set(str(error) if error else "closed")

    def set(self, why: str) -> None:
        """Tell that something is gone."""
        if not self._gone.is_set():
            self._why = why
            self._gone.set()

    async def raised(self, limit: float | None = None) -> None:
        """Wait for it, at most so many seconds.

        Raises:
            Lost: it is set.
        """
        try:
            async with asyncio.timeout(limit):
                await self._gone.wait()
        except TimeoutError:
            return
        raise Lost(self._why)


async def open_channel(
    connection: AbstractConnection, *, confirms: bool = False, lost: Signal | None = None
) -> AbstractChannel:
    """Open an AMQP channel; with confirms, a message that cannot be routed raises on publishing.

    Raises:
        Lost: the connection is gone.
    """
    with driver_errors():
        try:
            amqp_channel = connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
            if lost is not None:
                lost.watch(amqp_channel)
            return await amqp_channel
        except RuntimeError as error:
            raise Lost(str(error)) from error  # the driver's word for a connection that is closed


@asynccontextmanager
async def scratch_channel(connection: AbstractConnection) -> AsyncIterator[AbstractChannel]:
    """An AMQP channel for something that may fail: an error closes it, and nothing else.

    Raises:
        Lost: also when the body takes longer than `SETUP_LIMIT`.
    """
    with driver_errors():
        async with asyncio.timeout(SETUP_LIMIT):
            amqp_channel = await open_channel(connection)
            try:
                yield amqp_channel
            finally:
                await amqp_channel.close()


async def keep(url: str, name: str, session: Session) -> None:
    """Run sessions, one after the other, for ever; a session is over when it raises `Lost`.

    Everything else that it raises is raised.
    """
    loop = asyncio.get_running_loop()
    failures = 0
    while True:
        began = loop.time()
        try:
            async with _connected(url, name) as connection:
                await session(connection)
        except Lost as error:
            failures = 0 if loop.time() - began > STEADY else failures + 1
            nap = min(FIRST_NAP * 2**failures, LONGEST_NAP) * random.uniform(0.5, 1)  # noqa: S311 - spreads, hides nothing
            log.warning("queue.connection_lost", connection=name, reason=str(error), retry_in=round(nap, 2))
            await asyncio.sleep(nap)


@asynccontextmanager
async def _connected(url: str, name: str) -> AsyncIterator[AbstractConnection]:
    with driver_errors():
        async with asyncio.timeout(CONNECT_LIMIT):
            connection = await aio_pika.connect(_with_heartbeat(url), client_properties={"connection_name": name})
    try:
        yield connection
    finally:
        try:
            with driver_errors():
                async with asyncio.timeout(CLOSE_LIMIT):
                    await connection.close()
        except Lost as error:
            log.debug("queue.close_failed", connection=name, reason=str(error))


def _with_heartbeat(url: str) -> str:
    parts = urlsplit(url)
    if "heartbeat" in parse_qs(parts.query):
        return url
    return parts._replace(query=f"{parts.query}&heartbeat={HEARTBEAT}".lstrip("&")).geturl()


class Publisher:
    """Publishes with confirms over one kept connection.

    Args:
        url: the broker.
        setup: declares what is published to, on a fresh AMQP channel; returns the exchanges by name.
    """

    def __init__(self, url: str, setup: Callable[[AbstractChannel], Awaitable[dict[str, AbstractExchange]]]) -> None:
        self._url = url
        self._setup = setup
        self._up = asyncio.Event()
        self._down_since = 0.0
        self._connection: AbstractConnection | None = None
        self._exchanges: dict[str, AbstractExchange] = {}

    @property
    def up(self) -> bool:
        """Whether the connection stands."""
        return self._up.is_set()

    async def run(self) -> None:
        """Keep the connection until cancelled."""
        self._down_since = asyncio.get_running_loop().time()
        try:
            await keep(self._url, "publisher", self._session)
        finally:
            self._down_since = -math.inf  # it will not come back: nobody waits for it

    async def _session(self, connection: AbstractConnection) -> None:
        lost = Signal()
        lost.watch(connection)
        with driver_errors():
            async with asyncio.timeout(SETUP_LIMIT):
                amqp_channel = await open_channel(connection, confirms=True, lost=lost)
                self._exchanges = await self._setup(amqp_channel)
        self._connection = connection
        self._up.set()
        try:
            await lost.raised()
        finally:
            self._up.clear()
            self._down_since = asyncio.get_running_loop().time()

    async def ready(self) -> AbstractConnection:
        """Return the connection; waits, as long as it takes, until it stands."""
        await self._up.wait()
        if self._connection is None:
            raise Lost("closed")
        return self._connection

    async def _soon(self) -> None:
        # A connection that was just lost is mostly back at once; one that has been away for long is not waited for.
        patience = self._down_since + PUBLISH_LIMIT - asyncio.get_running_loop().time()
        if not self.up and patience <= 0:
            raise Lost("not connected")
        await self._up.wait()

    async def publish(self, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        """Publish and wait for the confirm; at most `PUBLISH_LIMIT` seconds in all.

        Raises:
            QueueFull: the broker refused the message.
            QueueUnavailable: it did not confirm it, or nothing is bound to take it.
        """
        try:
            with driver_errors():
                # The driver's own timeout does not cover waiting for a connection.
                async with asyncio.timeout(PUBLISH_LIMIT):
                    await self._soon()
                    await self._exchanges[exchange].publish(message, routing_key, mandatory=True)
        except PublishError as error:
            self._unknown(message, routing_key, f"returned: {error}")
            raise QueueUnavailable from error
        except DeliveryError as error:
            raise QueueFull from error
        except Lost as error:
            self._unknown(message, routing_key, str(error))
            raise QueueUnavailable from error

    @staticmethod
    def _unknown(message: aio_pika.Message, routing_key: str, reason: str) -> None:
        log.warning("queue.publish_unconfirmed", message_id=message.message_id, routing_key=routing_key, reason=reason)
