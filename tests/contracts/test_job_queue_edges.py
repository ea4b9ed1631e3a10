"""What every job queue does at its limits, and after its end."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import ConfigurationError, QueueFull, QueueUnavailable
from gateway.jobs.local import LocalQueue
from gateway.jobs.model import PRIORITIES
from gateway.jobs.queue import JobQueue
from gateway.jobs.queues import open_queue
from gateway.jobs.rabbitmq import RabbitQueue
from gateway.settings import load
from tests.support.brokers import SHORT, Broker
from tests.support.messages import PREFETCH, Inbox, make_message
from tests.support.waiting import eventually


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
