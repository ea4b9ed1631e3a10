"""What every job queue does with its dead letters. On RabbitMQ all pools share them; those of other tests go away."""

from __future__ import annotations

from gateway.jobs.queue import DeadDelivery, JobQueue, decode
from tests.support.messages import PREFETCH, Inbox, make_message
from tests.support.waiting import eventually


class Undertaking:
    """A handler that keeps the letters of some jobs, unsettled."""

    def __init__(self, *job_ids: str) -> None:
        self.job_ids = job_ids
        self.deliveries: list[DeadDelivery] = []

    async def __call__(self, delivery: DeadDelivery) -> None:
        if any(job_id.encode() in delivery.letter.body for job_id in self.job_ids):
            self.deliveries.append(delivery)
        else:
            await delivery.ack()


async def bury(queue: JobQueue, pool: str) -> str:
    message, inbox = make_message(pool), Inbox()
    await queue.publish(message)
    async with queue.consume(pool, PREFETCH, inbox):
        await eventually(lambda: len(inbox) == 1)
        await inbox.deliveries[0].reject("poison")

        async def there() -> bool:
            return await queue.dead_depth() > 0

        await eventually(there)
    return message.id


async def test_a_dead_letter_says_what_it_was_and_why_it_died(queue: JobQueue, pool: str) -> None:
    job_id = await bury(queue, pool)
    seen = Undertaking(job_id)
    async with queue.consume_dead(seen):
        await eventually(lambda: len(seen.deliveries) == 1)
        letter = seen.deliveries[0].letter
        assert decode(letter.body).id == job_id
        assert (letter.reason, letter.refused, letter.source) == ("poison", True, f"jobs.{pool}.default")
        await seen.deliveries[0].ack()
        await seen.deliveries[0].requeue()  # the first settlement counts
    later = await bury(queue, pool)
    again = Undertaking(job_id, later)
    async with queue.consume_dead(again):
        await eventually(lambda: again.deliveries)
        assert [decode(delivery.letter.body).id for delivery in again.deliveries] == [later]
        await again.deliveries[0].ack()


async def test_what_was_not_acknowledged_comes_again(queue: JobQueue, pool: str) -> None:
    job_id = await bury(queue, pool)
    first, second, third = Undertaking(job_id), Undertaking(job_id), Undertaking(job_id)
    async with queue.consume_dead(first):
        await eventually(lambda: len(first.deliveries) == 1)
        await first.deliveries[0].requeue()
        await eventually(lambda: len(first.deliveries) == 2)
    async with queue.consume_dead(second):
        await eventually(lambda: len(second.deliveries) == 1)
    await second.deliveries[0].ack()  # too late: it came by a connection that is gone
    async with queue.consume_dead(third):
        await eventually(lambda: len(third.deliveries) == 1)
        await third.deliveries[0].ack()


async def test_an_undertaker_that_raises_gets_its_letter_again(queue: JobQueue, pool: str) -> None:
    job_id = await bury(queue, pool)
    tries = 0

    async def stumble(delivery: DeadDelivery) -> None:
        nonlocal tries
        if job_id.encode() not in delivery.letter.body:
            await delivery.ack()
            return
        tries += 1
        if tries == 1:
            raise RuntimeError("broken")
        await delivery.ack()

    async with queue.consume_dead(stumble):
        await eventually(lambda: tries == 2)
