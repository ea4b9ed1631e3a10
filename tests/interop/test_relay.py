"""Programs that know nothing of us publish events: with plain pika, and with the CloudEvents SDK's RabbitMQ binding."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pika
import pytest
from cloudevents.core.bindings import rabbitmq
from cloudevents.core.v1.event import CloudEvent
from redis.asyncio import Redis

from gateway.jobs.rabbitmq_events import EVENTS
from tests.e2e.stack import ROOT_KEY, Stack, stack

pytestmark = pytest.mark.interop


@pytest.fixture
def running(redis_url: str, redis: Redis, amqp_url: str, tmp_path: Path) -> Iterator[Stack]:
    del redis  # emptied
    with stack(redis_url, amqp_url, tmp_path) as running:
        yield running


def publish(url: str, key: str, body: bytes, properties: pika.BasicProperties) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        amqp_channel = connection.channel()
        amqp_channel.confirm_delivery()
        amqp_channel.basic_publish(EVENTS, key, body, properties, mandatory=True)


def test_foreign_programs_reach_a_live_subscriber(running: Stack) -> None:
    _, url = running.gateway()
    running.run("consumers", "relay").wait_for("intake.consuming")
    attributes = {"type": "shop.order.paid", "source": "https://shop.example/orders", "id": "o 1", "subject": "o/1"}
    event = CloudEvent({**attributes, "datacontenttype": "application/json"}, {"total": 12})
    headers = {"Authorization": f"Bearer {ROOT_KEY}"}
    with httpx.stream("GET", f"{url}/v1/stream?channel=user:ann", headers=headers, timeout=30) as stream:
        lines = stream.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: gateway.open"
        binary = rabbitmq.to_binary_event(event)
        said = pika.BasicProperties(content_type=binary.content_type, headers=binary.headers)
        publish(running.amqp_url, "user:ann", binary.body, said)
        structured = rabbitmq.to_structured_event(CloudEvent({**event.get_attributes(), "id": "o2"}, {"total": 13}))
        said = pika.BasicProperties(content_type=structured.content_type)
        publish(running.amqp_url, "user:ann", structured.body, said)
        publish(running.amqp_url, "user:ann", b'{"total":14}', pika.BasicProperties(message_id="m3"))
        data = (line.removeprefix("data: ") for line in lines if line.startswith("data: {"))
        one, two, three = (json.loads(next(data)) for _ in range(3))
    for found, total in ((one, 12), (two, 13)):
        assert (found["type"], found["source"], found["subject"]) == ("shop.order.paid", attributes["source"], "o/1")
        assert found["data"] == {"total": total}
    assert (two["id"], three["id"], three["type"], three["data"]) == ("o2", "m3", "amqp.message", {"total": 14})
