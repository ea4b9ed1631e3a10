"""The in-process queue of `gateway dev`: what RabbitMQ does for us, without keeping anything."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import structlog

from gateway.errors import QueueFull, QueueUnavailable
from gateway.jobs.consumption import Consumption
from gateway.jobs.model import PRIORITIES, Priority
from gateway.jobs.queue import DELIVERY_LIMIT, MAX_LENGTH, Handler, Message, check_pool, check_prefetch

log = structlog.get_logger(__name__)

MAX_DEAD_LETTERS = 1000


class DeadLetter(NamedTuple):
    """A message nobody will get again, and why."""

    message: Message
    reason: str


@dataclass
class _Entry:
    message: Message
    returns: int = 0


class _Lane:
    """The queue of one class of a pool."""

    def __init__(self) -> None:
        self.ready: deque[_Entry] = deque()
        self._news = asyncio.Event()

    def put(self, entry: _Entry) -> None:
        self.ready.append(entry)
        self._news.set()

    def put_back(self, entry: _Entry) -> None:
        self.ready.appendleft(entry)
        self._news.set()

    async def take(self) -> _Entry:
        while not self.ready:
            self._news.clear()
            await self._news.wait()
        return self.ready.popleft()


class LocalQueue:
    """A `JobQueue` for one process. What it holds ends with the process; the due set knows that (DESIGN 4.2).

    Args:
        max_length: messages ready per class of a pool; past it `QueueFull`.

    Attributes:
        dead: the newest dead letters.
    """

    def __init__(self, *, max_length: int = MAX_LENGTH) -> None:
        self._max_length = max_length
        self._pools: dict[str, dict[Priority, _Lane]] = {}
        self._open = False
        self.dead: deque[DeadLetter] = deque(maxlen=MAX_DEAD_LETTERS)

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open = False

    async def declare(self, pool: str) -> None:
        """Make the queues of a pool."""
        check_pool(pool)
        self._pools.setdefault(pool, {priority: _Lane() for priority in PRIORITIES})

    async def publish(self, message: Message) -> None:
        """Hand a message over."""
        lanes = self._pools.get(message.pool)
        if not self._open or lanes is None:
            log.warning("queue.publish_unroutable", job_id=message.id, tenant=message.tenant, pool=message.pool)
            raise QueueUnavailable
        lane = lanes[message.priority]
        if len(lane.ready) >= self._max_length:
            raise QueueFull
        lane.put(_Entry(message))

    def consume(self, pool: str, prefetch: Mapping[str, int], handler: Handler) -> Consumption:
        """Receive from a pool's queues inside the context."""
        return _LocalConsumption(self, pool, check_prefetch(prefetch), handler)

    async def depth(self, pool: str) -> dict[str, int]:
        """Return how many messages are ready, per class."""
        lanes = self._pools.get(pool, {})
        return {priority: len(lanes[priority].ready) if lanes else 0 for priority in PRIORITIES}

    def healthy(self) -> bool:
        """Say whether publishing can work now."""
        return self._open

    def lane(self, pool: str, priority: Priority) -> _Lane:
        """The queue of one class of a declared pool."""
        return self._pools[pool][priority]

    def bury(self, message: Message, reason: str) -> None:
        """Keep a message as a dead letter."""
        log.warning("queue.dead_letter", job_id=message.id, tenant=message.tenant, reason=reason)
        self.dead.append(DeadLetter(message, reason))


class _LocalDelivery:
    def __init__(self, consumption: _LocalConsumption, lane: _Lane, entry: _Entry, slots: asyncio.Semaphore) -> None:
        self._consumption = consumption
        self._lane = lane
        self._entry = entry
        self._slots = slots

    @property
    def message(self) -> Message:
        return self._entry.message

    async def ack(self) -> None:
        self._settle()

    async def requeue(self) -> None:
        if not self._settle():
            return
        self._entry.returns += 1
        if self._entry.returns >= DELIVERY_LIMIT:
            self._consumption.queue.bury(self.message, "delivery-limit")
        else:
            self._lane.put(self._entry)

    async def reject(self, reason: str) -> None:
        if self._settle():
            self._consumption.queue.bury(self.message, reason)

    def give_back(self) -> None:
        if self._settle():
            self._lane.put_back(self._entry)

    def _settle(self) -> bool:
        """Free the slot; False when somebody did before."""
        if self not in self._consumption.unsettled:
            return False
        del self._consumption.unsettled[self]
        self._slots.release()
        return True


class _LocalConsumption(Consumption):
    def __init__(self, queue: LocalQueue, pool: str, prefetch: dict[Priority, int], handler: Handler) -> None:
        super().__init__(handler)
        self.queue = queue
        self.unsettled: dict[_LocalDelivery, None] = {}  # in the order of delivery
        self._pool = pool
        self._prefetch = prefetch

    async def feed(self) -> None:
        await self.queue.declare(self._pool)
        try:
            async with asyncio.TaskGroup() as pumps:
                for priority, limit in self._prefetch.items():
                    pumps.create_task(self._pump(self.queue.lane(self._pool, priority), asyncio.Semaphore(limit)))
                self.opened()
        finally:
            for delivery in reversed(list(self.unsettled)):
                delivery.give_back()

    async def _pump(self, lane: _Lane, slots: asyncio.Semaphore) -> None:
        while True:
            await slots.acquire()
            delivery = _LocalDelivery(self, lane, await lane.take(), slots)
            self.unsettled[delivery] = None
            self.start(delivery)
