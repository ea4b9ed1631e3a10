"""What every job queue does, whichever it is."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gateway.jobs import consumption
from gateway.jobs.model import PRIORITIES
from gateway.jobs.queue import DELIVERY_LIMIT, Delivery, JobQueue
from tests.support.brokers import Broker
from tests.support.messages import PREFETCH, Inbox, make_message
from tests.support.waiting import eventually


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


async def test_a_message_nobody_can_handle_dies_in_the_end(
    broker: Broker, queue: JobQueue, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumption, "FAILED_NAP", 0.01)  # between deliveries; there are twenty
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
