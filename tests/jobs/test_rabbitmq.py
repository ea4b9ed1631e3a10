"""The RabbitMQ queue while the broker, the network and the topology break."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import aio_pika
import pytest
from aio_pika.abc import HeadersType

from gateway.errors import ConfigurationError, QueueUnavailable
from gateway.jobs import rabbitmq_consumer
from gateway.jobs.amqp import PUBLISH_LIMIT, Signal
from gateway.jobs.queue import DEAD_LETTER_REASON, Delivery, encode
from gateway.jobs.rabbitmq import RabbitQueue
from gateway.jobs.topology import JOBS, Limits, clean_headers
from tests.support.brokers import dead_letter, plain
from tests.support.messages import PREFETCH, TRACE, Inbox, make_message
from tests.support.proxy import TcpProxy
from tests.support.servers import RabbitServer
from tests.support.waiting import eventually

RECOVERY = 30.0  # a quorum queue elects a leader after a restart
AT_ONCE = PUBLISH_LIMIT / 2
FOR_EVER = PUBLISH_LIMIT + 15  # without a limit; the machine may be busy


@pytest.fixture(scope="module")
def fragile() -> Iterator[RabbitServer]:
    """A broker to be broken; every test leaves it running."""
    with RabbitServer() as server:
        yield server


@pytest.fixture
async def proxy(rabbit_server: RabbitServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(rabbit_server.port) as proxy:
        yield proxy


async def refusal(queue: RabbitQueue, pool: str) -> float:
    """Seconds until a publish was answered with `QueueUnavailable`."""
    began = time.monotonic()
    with pytest.raises(QueueUnavailable):
        await queue.publish(make_message(pool))
    return time.monotonic() - began


async def until_published(queue: RabbitQueue, pool: str) -> str:
    """Publish as the reaper does, again and again; the id of what was confirmed."""

    async def published() -> str | None:
        message = make_message(pool)
        try:
            await queue.publish(message)
        except QueueUnavailable:
            return None
        return message.id

    found = await eventually(published, RECOVERY)
    assert found is not None
    return found


@pytest.mark.faults
async def test_it_starts_without_the_broker_and_works_when_it_comes(fragile: RabbitServer, pool: str) -> None:
    fragile.stop()
    began = time.monotonic()
    async with RabbitQueue(fragile.url) as queue:
        assert time.monotonic() - began < FOR_EVER
        assert not queue.healthy()
        assert min([await refusal(queue, pool) for _ in range(3)]) < AT_ONCE  # it has been away for long enough
        with pytest.raises(QueueUnavailable):
            await queue.depth(pool)
        inbox = Inbox()
        async with asyncio.TaskGroup() as tasks:
            declaring = tasks.create_task(queue.declare(pool))
            await asyncio.to_thread(fragile.start)
            await declaring
        message_id = await until_published(queue, pool)
        assert queue.healthy()
        async with queue.consume(pool, PREFETCH, inbox):
            await eventually(lambda: inbox.ids == [message_id])
            await inbox.deliveries[0].ack()


@pytest.mark.faults
async def test_consuming_goes_on_after_a_restart_of_the_broker(fragile: RabbitServer, pool: str) -> None:
    inbox = Inbox()
    finish = asyncio.Event()
    finished: list[str] = []

    async def slow(delivery: Delivery) -> None:
        await inbox(delivery)
        await finish.wait()
        await delivery.ack()
        finished.append(delivery.message.id)

    async with RabbitQueue(fragile.url) as queue, queue.consume(pool, PREFETCH, slow):
        await queue.publish(make_message(pool))
        await eventually(lambda: len(inbox) == 1)
        await asyncio.to_thread(fragile.restart)
        await eventually(lambda: len(inbox) == 2, RECOVERY)
        assert inbox.ids[0] == inbox.ids[1]  # it was not settled: it comes again while the first still runs
        finish.set()
        await eventually(lambda: len(finished) == 2)  # the first ack meets a connection that is gone
        message_id = await until_published(queue, pool)
        await eventually(lambda: message_id in finished)
        assert (await queue.depth(pool))["default"] == 0


@pytest.mark.faults
async def test_what_was_confirmed_survives_a_kill_of_the_broker(fragile: RabbitServer, pool: str) -> None:
    inbox = Inbox()
    async with RabbitQueue(fragile.url) as queue:
        await queue.declare(pool)
        # RabbitMQ 3.10 keeps the Raft term of a queue in memory for seconds: one that is younger when the broker is
        # killed never elects a leader again. An orderly restart makes it old.
        await asyncio.to_thread(fragile.restart)
        await until_published(queue, pool)
        confirmed: list[str] = []

        async def produce() -> None:
            while True:
                message = make_message(pool)
                try:
                    await queue.publish(message)
                except QueueUnavailable:
                    return
                confirmed.append(message.id)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(5):
                tasks.create_task(produce())
            await eventually(lambda: len(confirmed) > 200)
            fragile.kill()
        await asyncio.to_thread(fragile.start)
        async with queue.consume(pool, dict.fromkeys(PREFETCH, 1000), inbox):
            await eventually(lambda: set(confirmed) <= set(inbox.ids), RECOVERY)
            for delivery in inbox.deliveries:
                await delivery.ack()


async def test_a_message_no_queue_takes_is_not_taken_for_published(amqp_url: str, pool: str) -> None:
    async with RabbitQueue(amqp_url) as queue:
        assert min([await refusal(queue, pool) for _ in range(3)]) < AT_ONCE


@pytest.mark.faults
async def test_a_silent_network_costs_a_publisher_two_seconds(amqp_url: str, proxy: TcpProxy, pool: str) -> None:
    async with RabbitQueue(proxy.url(amqp_url)) as queue:
        await queue.declare(pool)
        proxy.stall()
        assert PUBLISH_LIMIT - 0.1 < await refusal(queue, pool) < FOR_EVER
        with pytest.raises(QueueUnavailable):
            await queue.depth(pool)
        proxy.resume()
        await until_published(queue, pool)


@pytest.mark.faults
async def test_a_connection_that_is_cut_is_made_anew(amqp_url: str, proxy: TcpProxy, pool: str) -> None:
    inbox = Inbox()
    async with RabbitQueue(proxy.url(amqp_url)) as queue, queue.consume(pool, PREFETCH, inbox):
        await queue.publish(make_message(pool))
        await eventually(lambda: len(inbox) == 1)
        proxy.drop()
        await eventually(lambda: not queue.healthy())
        await queue.publish(make_message(pool))  # waits for the new connection
        await eventually(lambda: len(set(inbox.ids)) == 2)
        assert len(inbox) == 3  # the first was not settled
        await inbox.deliveries[0].ack()  # came by the old connection: nothing happens
        proxy.cut()
        await refusal(queue, pool)
        proxy.resume()
        message_id = await until_published(queue, pool)
        await eventually(lambda: message_id in inbox.ids)


@pytest.mark.faults
async def test_leaving_does_not_hang_on_a_silent_network(amqp_url: str, proxy: TcpProxy, pool: str) -> None:
    async with RabbitQueue(proxy.url(amqp_url)) as queue, queue.consume(pool, PREFETCH, Inbox()):
        proxy.stall()
        began = time.monotonic()
    assert time.monotonic() - began < FOR_EVER


async def test_a_consumer_the_broker_cancels_comes_back(amqp_url: str, pool: str) -> None:
    inbox = Inbox()
    async with RabbitQueue(amqp_url) as queue, queue.consume(pool, PREFETCH, inbox):
        async with plain(amqp_url) as amqp_channel:
            await amqp_channel.queue_delete(f"jobs.{pool}.default")
        message_id = await until_published(queue, pool)
        await eventually(lambda: message_id in inbox.ids)


async def test_a_consumer_that_is_gone_without_a_word_is_noticed(
    amqp_url: str, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(Signal):
        def set(self, why: str) -> None:
            if "cancelled" not in why:
                super().set(why)

    monkeypatch.setattr(rabbitmq_consumer, "Signal", Deaf)
    inbox = Inbox()
    async with RabbitQueue(amqp_url, watch_every=0.1) as queue, queue.consume(pool, PREFETCH, inbox):
        async with plain(amqp_url) as amqp_channel:
            await amqp_channel.queue_delete(f"jobs.{pool}.default")
        message_id = await until_published(queue, pool)
        await eventually(lambda: message_id in inbox.ids)


async def test_what_cannot_be_decoded_is_a_dead_letter_and_stops_nobody(amqp_url: str, pool: str) -> None:
    inbox = Inbox()
    async with RabbitQueue(amqp_url) as queue, queue.consume(pool, {"default": 1}, inbox):
        async with plain(amqp_url) as amqp_channel:
            exchange = await amqp_channel.get_exchange(JOBS, ensure=False)
            for body in (b"\xff not json " + pool.encode(), b'{"id":"%b"}' % pool.encode()):
                headers: HeadersType = {
                    "traceparent": TRACE,
                    "x-death": [{"count": 3}],
                    "x-first-death-reason": "expired",
                }
                await exchange.publish(aio_pika.Message(body, headers=headers), f"{pool}.default")
        await queue.publish(make_message(pool))
        await eventually(lambda: len(inbox) == 1)
        for marker in (b"not json " + pool.encode(), b'{"id":"%b"}' % pool.encode()):
            dead = await dead_letter(amqp_url, marker)
            assert str(dead.headers[DEAD_LETTER_REASON]).startswith("undecodable: ")
            assert dead.headers["traceparent"] == TRACE
            assert "x-death" not in dead.headers
            assert "x-first-death-reason" not in dead.headers
            assert dead.routing_key == f"{pool}.default"


async def test_a_dead_letter_that_is_not_confirmed_stays_in_the_queue(
    amqp_url: str, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise QueueUnavailable

    monkeypatch.setattr(rabbitmq_consumer, "UNBURIED_NAP", 0)
    inbox = Inbox()
    message = make_message(pool)
    async with RabbitQueue(amqp_url) as queue, queue.consume(pool, PREFETCH, inbox):
        await queue.publish(message)
        await eventually(lambda: len(inbox) == 1)
        with monkeypatch.context() as broken:
            broken.setattr(queue._publisher, "publish", refuse)
            await inbox.deliveries[0].reject("poison")
        await eventually(lambda: len(inbox) == 2)
        await inbox.deliveries[1].reject("poison")
        dead = await dead_letter(amqp_url, message.id.encode())
        assert dead.headers[DEAD_LETTER_REASON] == "poison"
        assert dead.correlation_id == message.id
        assert dead.body == encode(message)


async def test_a_queue_with_other_arguments_is_told_not_looped_over(amqp_url: str, pool: str) -> None:
    async with RabbitQueue(amqp_url) as queue, RabbitQueue(amqp_url, limits=Limits(length=7)) as other:
        await queue.declare(pool)
        with pytest.raises(ConfigurationError, match="other arguments"):
            await other.declare(pool)
        with pytest.raises(ExceptionGroup) as raised:
            async with other.consume(pool, PREFETCH, Inbox()):
                pytest.fail("must not get here")
        assert raised.group_contains(ConfigurationError, match="x-max-length")
        await queue.publish(make_message(pool))  # nobody else is harmed


async def test_a_consumer_that_cannot_be_repaired_is_given_up(
    amqp_url: str, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq_consumer, "SUBSCRIBE_TRIES", 3)
    monkeypatch.setattr(rabbitmq_consumer, "queue_name", lambda *_: "nowhere")
    async with RabbitQueue(amqp_url) as queue:
        with pytest.raises(ExceptionGroup) as raised:
            async with queue.consume(pool, PREFETCH, Inbox()):
                pytest.fail("must not get here")
    assert raised.group_contains(QueueUnavailable, match="failed 3 times")


def test_the_brokers_account_of_earlier_deaths_does_not_travel_on() -> None:
    own: HeadersType = {"x-death": [], "x-first-death-queue": "q", "x-last-death-reason": "r", "x-delivery-count": 3}
    assert clean_headers({**own, "traceparent": TRACE, "x-reason": "r"}) == {"traceparent": TRACE, "x-reason": "r"}
