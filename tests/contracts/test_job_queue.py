"""What every job queue does, whichever it is."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Literal

import aio_pika
import msgspec
import pytest

from gateway.errors import ConfigurationError, QueueFull, QueueUnavailable
from gateway.jobs.local import LocalQueue
from gateway.jobs.model import PRIORITIES
from gateway.jobs.queue import DELIVERY_LIMIT, Delivery, JobQueue, decode
from gateway.jobs.queues import open_queue
from gateway.jobs.rabbitmq import RabbitQueue
from gateway.jobs.topology import DEAD_LETTERS, Limits
from gateway.settings import load
from tests.support.messages import PREFETCH, Inbox, make_message
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


@pytest.fixture(params=["local", "rabbit"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    async with AsyncExitStack() as stack:
        if request.param == "local":
            yield Local(stack)
        else:
            yield Rabbit(stack, request.getfixturevalue("amqp_url"))


@pytest.fixture
async def queue(broker: Broker, pool: str) -> JobQueue:
    queue = await broker.open()
    await queue.declare(pool)
    return queue


async def test_what_is_published_arrives_whole_and_is_gone_after_the_ack(queue: JobQueue, pool: str) -> None:
    message, inbox = make_message(pool), Inbox()
    await queue.publish(message)
    assert await queue.depth(pool) == {"critical": 0, "default": 1, "bulk": 0}
    async with queue.consume(pool, PREFETCH, inbox):
        await eventually(lambda: len(inbox) == 1)
        received = inbox.deliveries[0].message
        assert received == message
        assert bytes(received.input) == bytes(message.input)
        await inbox.deliveries[0].ack()
        await inbox.deliveries[0].ack()  # the first settlement counts
        await inbox.deliveries[0].requeue()
        await inbox.deliveries[0].reject("too late")
        await queue.publish(make_message(pool))
        await eventually(lambda: len(inbox) == 2)
        assert inbox.ids[1] != message.id
        await inbox.deliveries[1].ack()
    assert await queue.depth(pool) == dict.fromkeys(PRIORITIES, 0)


async def test_the_largest_input_passes(queue: JobQueue, pool: str) -> None:
    text = b'"' + b"x" * (256 * 1024 - 2) + b'"'
    message, inbox = make_message(pool, input=msgspec.Raw(text)), Inbox()
    await queue.publish(message)
    async with queue.consume(pool, PREFETCH, inbox):
        await eventually(lambda: len(inbox) == 1)
        assert bytes(inbox.deliveries[0].message.input) == text
        await inbox.deliveries[0].ack()


async def test_a_requeued_message_comes_again(queue: JobQueue, pool: str) -> None:
    message, inbox = make_message(pool), Inbox()
    await queue.publish(message)
    async with queue.consume(pool, PREFETCH, inbox):
        await eventually(lambda: len(inbox) == 1)
        await inbox.deliveries[0].requeue()
        await eventually(lambda: len(inbox) == 2)
        assert inbox.ids == [message.id] * 2
        await inbox.deliveries[1].ack()


async def test_a_rejected_message_goes_to_the_dead_letters_with_the_reason(
    broker: Broker, queue: JobQueue, pool: str
) -> None:
    message, inbox = make_message(pool), Inbox()
    await queue.publish(message)
    async with queue.consume(pool, PREFETCH, inbox):
        await eventually(lambda: len(inbox) == 1)
        await inbox.deliveries[0].reject("no such task")

        async def buried() -> bool:
            return message.id in await broker.dead_letters()

        await eventually(buried)
        assert (await broker.dead_letters())[message.id] == "no such task"
        assert len(inbox) == 1


async def test_a_handler_that_raises_gets_its_message_again(queue: JobQueue, pool: str) -> None:
    seen: list[str] = []

    async def handler(delivery: Delivery) -> None:
        seen.append(delivery.message.id)
        if len(seen) == 1:
            raise RuntimeError("the handler is broken")
        await delivery.ack()

    message = make_message(pool)
    await queue.publish(message)
    async with queue.consume(pool, PREFETCH, handler):
        await eventually(lambda: len(seen) == 2)
    assert seen == [message.id] * 2


async def test_a_message_nobody_can_handle_dies_in_the_end(broker: Broker, queue: JobQueue, pool: str) -> None:
    tries = 0

    async def handler(delivery: Delivery) -> None:
        del delivery
        nonlocal tries
        tries += 1
        raise RuntimeError("always")

    message = make_message(pool)
    await queue.publish(message)
    async with queue.consume(pool, PREFETCH, handler):

        async def buried() -> bool:
            return message.id in await broker.dead_letters()

        await eventually(buried)
    assert (await broker.dead_letters())[message.id] == "delivery-limit"
    assert DELIVERY_LIMIT <= tries <= DELIVERY_LIMIT + 1


async def test_the_prefetch_bounds_what_is_unsettled(queue: JobQueue, pool: str) -> None:
    inbox = Inbox()
    for _ in range(5):
        await queue.publish(make_message(pool))
    async with queue.consume(pool, {"default": 2}, inbox):
        await eventually(lambda: len(inbox) == 2)

        async def three_wait() -> bool:
            return (await queue.depth(pool))["default"] == 3

        await eventually(three_wait)
        assert len(inbox) == 2
        await inbox.deliveries[0].ack()
        await eventually(lambda: len(inbox) == 3)
        await inbox.deliveries[1].reject("frees a slot too")
        await eventually(lambda: len(inbox) == 4)
        assert len(set(inbox.ids)) == 4


async def test_a_class_that_is_stuck_holds_up_no_other(queue: JobQueue, pool: str) -> None:
    inbox = Inbox()
    for priority in ("bulk", "bulk", "critical", "default"):
        await queue.publish(make_message(pool, priority=priority))
    async with queue.consume(pool, dict.fromkeys(PRIORITIES, 1), inbox):
        await eventually(lambda: len(inbox) == 3)
        assert sorted(delivery.message.priority for delivery in inbox.deliveries) == ["bulk", "critical", "default"]
        for delivery in inbox.deliveries:
            if delivery.message.priority != "bulk":
                await delivery.ack()
        await queue.publish(make_message(pool, priority="critical"))
        await eventually(lambda: len(inbox) == 4)
        assert inbox.deliveries[3].message.priority == "critical"


async def test_a_class_without_a_prefetch_is_not_consumed(queue: JobQueue, pool: str) -> None:
    inbox = Inbox()
    await queue.publish(make_message(pool, priority="bulk"))
    await queue.publish(make_message(pool, priority="critical"))
    async with queue.consume(pool, {"critical": 1}, inbox):
        await eventually(lambda: len(inbox) == 1)
        assert await queue.depth(pool) == {"critical": 0, "default": 0, "bulk": 1}


async def test_competing_consumers_share_without_overlap(broker: Broker, queue: JobQueue, pool: str) -> None:
    other = await broker.open()
    first, second = Inbox(), Inbox()
    async with queue.consume(pool, {"default": 5}, first), other.consume(pool, {"default": 5}, second):
        sent = [make_message(pool) for _ in range(10)]
        for message in sent:
            await queue.publish(message)
        await eventually(lambda: len(first) + len(second) == 10)
        assert sorted(first.ids + second.ids) == sorted(message.id for message in sent)
        assert len(first) == len(second) == 5


async def test_pools_are_separate(queue: JobQueue, pool: str) -> None:
    other = f"{pool}-b"
    await queue.declare(other)
    here, there = Inbox(), Inbox()
    async with queue.consume(pool, PREFETCH, here), queue.consume(other, PREFETCH, there):
        await queue.publish(make_message(other))
        await eventually(lambda: len(there) == 1)
        await there.deliveries[0].ack()
    assert len(here) == 0


async def test_leaving_cancels_the_handlers_and_gives_back_what_is_unsettled(
    broker: Broker, queue: JobQueue, pool: str
) -> None:
    running: list[str] = []
    cancelled: list[str] = []

    async def stuck(delivery: Delivery) -> None:
        running.append(delivery.message.id)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(delivery.message.id)
            raise

    sent = [make_message(pool) for _ in range(3)]
    for message in sent:
        await queue.publish(message)
    async with queue.consume(pool, {"default": 2}, stuck):
        await eventually(lambda: len(running) == 2)
    assert sorted(cancelled) == sorted(running)
    other, inbox = await broker.open(), Inbox()
    async with other.consume(pool, PREFETCH, inbox):
        await eventually(lambda: len(inbox) == 3)
        assert sorted(inbox.ids) == sorted(message.id for message in sent)
        assert len(running) == 2
        for delivery in inbox.deliveries:
            await delivery.ack()


async def test_settling_after_the_end_does_nothing(queue: JobQueue, pool: str) -> None:
    first, second = Inbox(), Inbox()
    await queue.publish(make_message(pool))
    async with queue.consume(pool, PREFETCH, first):
        await eventually(lambda: len(first) == 1)
    await first.deliveries[0].ack()
    async with queue.consume(pool, PREFETCH, second):
        await eventually(lambda: len(second) == 1)
        await second.deliveries[0].ack()
    await second.deliveries[0].reject("too late")


async def test_an_error_of_the_user_passes_unchanged(queue: JobQueue, pool: str) -> None:
    with pytest.raises(LookupError):
        async with queue.consume(pool, PREFETCH, Inbox()):
            raise LookupError


async def test_a_full_queue_refuses_and_takes_again_when_there_is_room(broker: Broker, pool: str) -> None:
    queue = await broker.open(short=True)
    await queue.declare(pool)
    taken: list[str] = []

    async def refused() -> bool:
        message = make_message(pool)
        try:
            await queue.publish(message)
        except QueueFull:
            return True
        taken.append(message.id)
        return False

    await eventually(refused)
    assert SHORT <= len(taken) <= SHORT + 10  # a quorum queue starts to refuse a little late
    await queue.publish(make_message(pool, priority="critical"))  # each class has its own room
    inbox = Inbox()
    async with queue.consume(pool, {"default": 100}, inbox):
        await eventually(lambda: len(inbox) == len(taken))
        assert sorted(inbox.ids) == sorted(taken)
        for delivery in inbox.deliveries:
            await delivery.ack()

        async def takes() -> bool:
            try:
                await queue.publish(make_message(pool))
            except QueueFull:
                return False
            return True

        await eventually(takes)


async def test_a_pool_nobody_declared_takes_nothing(broker: Broker, pool: str) -> None:
    queue = await broker.open()
    with pytest.raises(QueueUnavailable):
        await queue.publish(make_message(pool))
    assert await queue.depth(pool) == dict.fromkeys(PRIORITIES, 0)
    await queue.declare(pool)
    await queue.publish(make_message(pool))


async def test_the_same_attempt_published_at_once_arrives_twice(queue: JobQueue, pool: str) -> None:
    message, inbox = make_message(pool), Inbox()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(queue.publish(message))
    async with queue.consume(pool, PREFETCH, inbox):
        await eventually(lambda: len(inbox) == 2)
        assert inbox.ids == [message.id] * 2


@pytest.mark.parametrize("name", ["", "a.b", "a*", "#", "x" * 65, "a b"])
async def test_a_name_that_would_break_routing_is_refused(broker: Broker, name: str) -> None:
    queue = await broker.open()
    with pytest.raises(ConfigurationError, match="must be named"):
        await queue.declare(name)


@pytest.mark.parametrize("prefetch", [{}, {"urgent": 1}, {"bulk": 0}])
async def test_a_prefetch_without_sense_is_refused(queue: JobQueue, pool: str, prefetch: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="prefetch"):
        queue.consume(pool, prefetch, Inbox())


async def test_it_is_healthy_while_open(broker: Broker) -> None:
    queue = await broker.open()
    assert queue.healthy()
    await broker.stack.aclose()
    assert not queue.healthy()
    with pytest.raises(QueueUnavailable):
        await queue.publish(make_message("default"))


async def test_the_settings_choose_the_implementation(amqp_url: str) -> None:
    async with open_queue(load({"GATEWAY_AMQP_URL": "memory://"})) as local:
        assert isinstance(local, LocalQueue)
    async with open_queue(load({"GATEWAY_AMQP_URL": amqp_url})) as rabbit:
        assert isinstance(rabbit, RabbitQueue)
        assert rabbit.healthy()
