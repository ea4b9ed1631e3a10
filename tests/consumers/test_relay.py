"""The relay on a real RabbitMQ and a real Redis: order, repetitions, faults, bad messages."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import aio_pika
import pytest
from redis.asyncio import Redis

from consumers.relay import Relay
from gateway.errors import ConfigurationError, GatewayError
from gateway.events import Position
from gateway.jobs.rabbitmq_events import EVENTS, QUEUE, declare_events
from gateway.jobs.topology import Limits
from gateway.settings import Settings, load
from gateway.store.channels import ChannelStore, Outgoing
from gateway.store.redis import Store
from tests.consumers.support import background
from tests.support.brokers import plain
from tests.support.proxy import TcpProxy
from tests.support.servers import RabbitServer, RedisServer
from tests.support.waiting import eventually

RECOVERY = 60.0


@pytest.fixture
def settings(redis_url: str, redis: Redis, amqp_url: str) -> Settings:
    del redis  # emptied
    return load({"GATEWAY_REDIS_URL": redis_url, "GATEWAY_AMQP_URL": amqp_url, "GATEWAY_CHANNELS": CHANNELS})


CHANNELS = json.dumps({"long": {"history_size": 100_000}})


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    async with Store.open(settings) as store:
        yield store


@pytest.fixture
async def channels(store: Store, settings: Settings) -> ChannelStore:
    """The channels; the relay's queue is there and empty."""
    await empty_queue(settings.amqp_url)
    return ChannelStore(store, settings)


async def empty_queue(url: str) -> None:
    async with plain(url) as amqp_channel:
        await declare_events(amqp_channel, Limits())
        await (await amqp_channel.get_queue(QUEUE)).purge()


async def publish(url: str, *messages: aio_pika.Message, key: str = "long:a") -> None:
    """Publish in order and wait for all confirms: without them a quorum queue may lose the last ones."""
    async with plain(url) as amqp_channel, asyncio.TaskGroup() as tasks:
        exchange = await amqp_channel.get_exchange(EVENTS, ensure=False)
        for message in messages:
            tasks.create_task(exchange.publish(message, key))


def numbered(numbers: range) -> list[aio_pika.Message]:
    return [aio_pika.Message(b"%d" % number, message_id=f"n{number}", delivery_mode=2) for number in numbers]


async def events(channels: ChannelStore, channel: str = "long:a", tenant: str = "default") -> list[dict[str, Any]]:
    found = await channels.history(tenant, channel, since=Position("", 0), limit=-1)
    return [json.loads(publication.event) for publication in found.publications]


async def until_data(channels: ChannelStore, expected: list[Any], limit: float = RECOVERY) -> None:
    async def there() -> bool:
        found = [event["data"] for event in await events(channels)]
        assert len(found) <= len(expected), Counter(map(str, found)).most_common(3)
        return len(found) == len(expected)

    await eventually(there, limit)
    assert [event["data"] for event in await events(channels)] == expected


async def ready_messages(url: str) -> int:
    async with plain(url) as amqp_channel:
        queue = await amqp_channel.declare_queue(QUEUE, passive=True)
        return queue.declaration_result.message_count or 0


async def dead(store: Store) -> list[dict[str, Any]]:
    """The dead letters nobody owns."""
    found: list[Any] = [await store.client.hgetall(key) async for key in store.client.scan_iter("*deadm:*")]
    return [{**json.loads(b"{" + letter[b"m"] + b"}"), "reason": letter[b"r"].decode()} for letter in found]


async def test_events_reach_their_channels_in_order_whatever_their_form(
    channels: ChannelStore, store: Store, settings: Settings
) -> None:
    url = settings.amqp_url
    structured = {"specversion": "1.0", "id": "s", "source": "/s", "type": "a.b", "channels": "long:a,other", "data": 2}
    headers = {"ce-specversion": "1.0", "ce-id": "b", "ce-source": "/b", "ce-type": "c.d", "ce-tenant": "acme"}
    async with background(Relay(store, settings).run()):
        await publish(
            url,
            aio_pika.Message(b"1", message_id="r"),
            aio_pika.Message(json.dumps(structured).encode(), content_type="application/cloudevents+json"),
            aio_pika.Message(b"3", headers=dict(headers)),
        )
        await eventually(lambda: _count(channels, "long:a", "acme"))
    assert [event["data"] for event in await events(channels)] == [1, 2]
    assert [event["data"] for event in await events(channels, "other")] == [2]
    (other,) = await events(channels, tenant="acme")
    assert (other["data"], other["type"], other["source"]) == (3, "c.d", "/b")
    assert await ready_messages(url) == 0


async def _count(channels: ChannelStore, channel: str, tenant: str = "default") -> int:
    return len(await events(channels, channel, tenant))


async def test_thousands_keep_their_order_and_repetitions_are_dropped(
    channels: ChannelStore, store: Store, settings: Settings
) -> None:
    async with background(Relay(store, settings).run(), Relay(store, settings).run()):  # one is active, one stands by
        await publish(
            settings.amqp_url, *numbered(range(2000)), *numbered(range(1900, 2000)), *numbered(range(2000, 2001))
        )
        await until_data(channels, list(range(2001)))


async def test_bad_messages_become_dead_letters_and_hold_nobody_up(
    channels: ChannelStore, store: Store, settings: Settings
) -> None:
    bad = [
        aio_pika.Message(b"{", message_id="broken"),
        aio_pika.Message(b"1", type="job.succeeded"),
        aio_pika.Message(b"1", headers={"channels": "job:x", "list": ["\ud7ff", 1], "deep": {"a": True}}),
        aio_pika.Message(b"\x00" * 100_000, content_type="image/png"),
    ]
    async with background(Relay(store, settings).run()):
        await publish(settings.amqp_url, *numbered(range(1)), *bad, *numbered(range(1, 2)))
        await until_data(channels, [0, 1])
        await eventually(lambda: _all_dead(store, len(bad)))
    letters = await dead(store)
    assert {letter["reason"] for letter in letters} == {"undecodable"}
    assert {letter["source"] for letter in letters} == {QUEUE}
    for said in ("JSON", "/type", "/channels/0", "image/png"):
        assert any(said in letter["detail"] for letter in letters), said
    assert {letter["headers"]["x-was-routing_key"] for letter in letters} == {"long:a"}


async def _all_dead(store: Store, count: int) -> bool:
    return len(await dead(store)) == count


async def test_what_the_store_refuses_is_a_dead_letter_and_the_rest_is_recorded(
    channels: ChannelStore, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ChannelStore.publish_many

    async def choosy(self: ChannelStore, tenant: str, outgoing: list[Outgoing]) -> list[list[Position]]:
        if any(item.event.id == "n3" for item in outgoing):
            raise GatewayError("no")
        return await real(self, tenant, outgoing)

    monkeypatch.setattr(ChannelStore, "publish_many", choosy)
    await publish(settings.amqp_url, *numbered(range(6)))
    async with background(Relay(store, settings).run()):
        await until_data(channels, [0, 1, 2, 4, 5])
        await eventually(lambda: _all_dead(store, 1))
    assert (await dead(store))[0]["detail"] == "no"


async def test_a_batch_whose_acknowledgement_was_lost_is_recognised(
    channels: ChannelStore, store: Store, settings: Settings
) -> None:
    """The process dies between record and acknowledgement."""
    await publish(settings.amqp_url, *numbered(range(300)))
    recorded = asyncio.Event()
    dying = Relay(store, settings)
    handle = dying.handle

    async def record_and_die(messages: Any) -> None:
        await handle(messages)
        recorded.set()
        await asyncio.Event().wait()

    dying._intake._handler = record_and_die
    async with background(dying.run()):
        await recorded.wait()
    assert await _count(channels, "long:a") > 0
    await publish(settings.amqp_url, *numbered(range(300, 310)))
    async with background(Relay(store, settings).run()):
        await until_data(channels, list(range(310)))


async def test_a_graceful_stop_finishes_the_batch_in_hand(
    channels: ChannelStore, store: Store, settings: Settings
) -> None:
    await publish(settings.amqp_url, *[aio_pika.Message(b"%d" % n) for n in range(500)])  # without ids to know them by
    relay = Relay(store, settings)
    async with background(relay.run()) as (running,):
        await eventually(lambda: _count(channels, "long:a"))
        relay.stop()
        await running
    async with background(Relay(store, settings).run()):
        await until_data(channels, list(range(500)))


async def test_it_waits_for_redis_and_acknowledges_nothing(own_redis: RedisServer, amqp_url: str) -> None:
    await empty_queue(amqp_url)
    settings = load({"GATEWAY_REDIS_URL": own_redis.url, "GATEWAY_AMQP_URL": amqp_url, "GATEWAY_CHANNELS": CHANNELS})
    async with Store.open(settings) as store, background(Relay(store, settings).run()):
        channels = ChannelStore(store, settings)
        await publish(amqp_url, *numbered(range(1)))
        await until_data(channels, [0])
        await asyncio.to_thread(own_redis.stop)
        await publish(amqp_url, *numbered(range(1, 500)), aio_pika.Message(b"{"))
        await asyncio.to_thread(own_redis.start)
        await until_data(channels, list(range(500)))
        await eventually(lambda: _all_dead(store, 1))


@pytest.mark.faults
async def test_it_goes_on_when_the_connection_or_the_broker_is_lost(redis_url: str, redis: Redis) -> None:
    del redis  # emptied
    with RabbitServer() as rabbit:
        async with TcpProxy(rabbit.port) as proxy:
            url = rabbit.url.replace(str(rabbit.port), str(proxy.port))
            settings = load({"GATEWAY_REDIS_URL": redis_url, "GATEWAY_AMQP_URL": url, "GATEWAY_CHANNELS": CHANNELS})
            async with Store.open(settings) as store, background(Relay(store, settings).run()):
                channels = ChannelStore(store, settings)
                await eventually(lambda: _consumed(rabbit.url), RECOVERY)
                await publish(rabbit.url, *numbered(range(1500)))
                await eventually(lambda: _count(channels, "long:a"))
                proxy.drop()
                await until_data(channels, list(range(1500)))
                await publish(rabbit.url, *numbered(range(1500, 3000)))
                await asyncio.to_thread(rabbit.restart)
                await until_data(channels, list(range(3000)))


async def _consumed(url: str) -> bool:
    """Whether the queue is there, bound and consumed."""
    try:
        async with plain(url) as amqp_channel:
            queue = await amqp_channel.declare_queue(QUEUE, passive=True)
            return bool(queue.declaration_result.consumer_count)
    except aio_pika.exceptions.AMQPError:
        return False


async def test_a_queue_with_other_arguments_stops_the_start(
    channels: ChannelStore, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    del channels  # declared
    relay = Relay(store, settings)
    monkeypatch.setattr(relay._intake, "_declare", partial(declare_events, limits=Limits(length=1)))
    with pytest.raises(ExceptionGroup) as failed:
        await relay.run()
    assert failed.group_contains(ConfigurationError, match=QUEUE)


async def test_a_consumer_that_is_gone_unnoticed_is_replaced(
    channels: ChannelStore, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay(store, settings)
    monkeypatch.setattr(relay._intake, "_watch_every", 0.1)
    async with background(relay.run()):
        await publish(settings.amqp_url, *numbered(range(1)))
        await until_data(channels, [0])
        async with plain(settings.amqp_url) as amqp_channel:
            await amqp_channel.queue_delete(QUEUE)  # the broker cancels the consumer
        await eventually(lambda: _consumed(settings.amqp_url), RECOVERY)
        await publish(settings.amqp_url, *numbered(range(1, 2)))
        await until_data(channels, [0, 1])
