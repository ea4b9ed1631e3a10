"""The in-process queue of `gateway dev`: what RabbitMQ does for us, without keeping anything."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import structlog

from gateway.errors import Conflict, QueueFull, QueueUnavailable
from gateway.jobs.consumption import Consumption
from gateway.jobs.model import PRIORITIES, Priority
from gateway.jobs.queue import (
    DELIVERY_LIMIT,
    MAX_LENGTH,
    DeadDelivery,
    Delivery,
    Handler,
    Letter,
    Message,
    Undertaking,
    check_pool,
    check_prefetch,
    encode,
)

log = structlog.get_logger(__name__)

MAX_DEAD_LETTERS = 1000
DEAD_PREFETCH = 20


class DeadLetter(NamedTuple):
    """A message nobody will get again, and why; refused by a worker, or returned too often."""

    message: Message
    reason: str
    refused: bool


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
        dead: the newest dead letters that nobody took. With the process they are gone, like all it holds.
    """

    def __init__(self, *, max_length: int = MAX_LENGTH) -> None:
        self._max_length = max_length
        self._pools: dict[str, dict[Priority, _Lane]] = {}
        self._open = False
        self.dead: deque[DeadLetter] = deque(maxlen=MAX_DEAD_LETTERS)
        self.died = asyncio.Event()

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

    def consume(self, pool: str, prefetch: Mapping[str, int], handler: Handler) -> Consumption[Delivery]:
        """Receive from a pool's queues inside the context."""
        return _LocalConsumption(self, pool, check_prefetch(prefetch), handler)

    def consume_dead(self, handler: Undertaking) -> Consumption[DeadDelivery]:
        """Receive the dead letters inside the context."""
        return _LocalDeadConsumption(self, handler)

    async def dead_depth(self) -> int:
        """Return how many dead letters nobody took."""
        return len(self.dead)

    async def resend(self, queue: str, body: bytes, *, headers: Mapping[str, object], content_type: str) -> None:
        """Refuse: nothing but jobs is ever here."""
        del body, headers, content_type
        raise Conflict(f"the in-process queue has no queue {queue!r}: the message came from RabbitMQ")

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

    def bury(self, message: Message, reason: str, *, refused: bool) -> None:
        """Keep a message as a dead letter."""
        log.warning("queue.dead_letter", job_id=message.id, tenant=message.tenant, reason=reason)
        self.dead.append(DeadLetter(message, reason, refused))
        self.died.set()


class _LocalDelivery:
    def __init__(self, consumption: _LocalConsumption, lane: _Lane, entry: _Entry, slots: asyncio.Semaphore) -> None:
        self._consumption = consumption
        self._lane = lane
        self._entry = entry
        self._slots = slots

    @property
    def message(self) -> Message:
        return self._entry.message

    @property
    def about(self) -> Mapping[str, str]:
        return {"job_id": self.message.id, "tenant": self.message.tenant}

    async def ack(self) -> None:
        self._settle()

    async def requeue(self) -> None:
        if not self._settle():
            return
        self._entry.returns += 1
        if self._entry.returns >= DELIVERY_LIMIT:
            self._consumption.queue.bury(self.message, "delivery-limit", refused=False)
        else:
            self._lane.put(self._entry)

    async def reject(self, reason: str) -> None:
        if self._settle():
            self._consumption.queue.bury(self.message, reason, refused=True)

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


class _LocalConsumption(Consumption[Delivery]):
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


class _LocalDeadDelivery:
    def __init__(self, consumption: _LocalDeadConsumption, dead: DeadLetter) -> None:
        self._consumption = consumption
        self._dead = dead

    @property
    def letter(self) -> Letter:
        message, reason, refused = self._dead
        return Letter(encode(message), reason, refused, f"jobs.{message.pool}.{message.priority}")

    @property
    def about(self) -> Mapping[str, str]:
        return {"job_id": self._dead.message.id, "tenant": self._dead.message.tenant}

    async def ack(self) -> None:
        self._settle()

    async def requeue(self) -> None:
        if self._settle():
            self._consumption.queue.dead.append(self._dead)
            self._consumption.queue.died.set()

    def give_back(self) -> None:
        if self._settle():
            self._consumption.queue.dead.appendleft(self._dead)

    def _settle(self) -> bool:
        if self not in self._consumption.unsettled:
            return False
        del self._consumption.unsettled[self]
        self._consumption.slots.release()
        return True


class _LocalDeadConsumption(Consumption[DeadDelivery]):
    def __init__(self, queue: LocalQueue, handler: Undertaking) -> None:
        super().__init__(handler)
        self.queue = queue
        self.slots = asyncio.Semaphore(DEAD_PREFETCH)
        self.unsettled: dict[_LocalDeadDelivery, None] = {}

    async def feed(self) -> None:
        self.opened()
        try:
            while True:
                await self.slots.acquire()
                while not self.queue.dead:
                    self.queue.died.clear()
                    await self.queue.died.wait()
                delivery = _LocalDeadDelivery(self, self.queue.dead.popleft())
                self.unsettled[delivery] = None
                self.start(delivery)
        finally:
            for delivery in reversed(list(self.unsettled)):
                delivery.give_back()
