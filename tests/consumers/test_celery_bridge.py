"""Two bridges on a real RabbitMQ and a real Redis: bursts, outages, messages of any kind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aio_pika
import pytest

from consumers.celery import QUEUE, BridgePlan, CeleryBridge
from gateway.auth.principals import DEFAULT_TENANT
from gateway.events import Position
from gateway.jobs.foreign import ForeignJobs, Named
from gateway.jobs.rabbitmq_celery import EVENTS, declare_celery_events
from gateway.jobs.store import JobStore
from gateway.settings import Settings, load
from gateway.store.channels import ChannelStore
from gateway.store.redis import Store
from tests.consumers.support import background
from tests.support.brokers import plain
from tests.support.servers import RabbitServer, RedisServer
from tests.support.waiting import eventually

RECOVERY = 90.0
STORY = ("task-sent", "task-received", "task-started", "task-succeeded")
DEEP = b"[" * 200_000 + b"]" * 200_000


class Scene:
    """A Redis and a broker of one's own, and two bridges between them."""

    def __init__(self, redis: RedisServer, rabbit: RabbitServer, store: Store, settings: Settings) -> None:
        self.redis = redis
        self.rabbit = rabbit
        self.store = store
        self.jobs = JobStore(store)
        self.channels = ChannelStore(store, settings)
        self._foreign = ForeignJobs(store, settings, "celery", 3600)

    async def tell(self, *bodies: bytes) -> None:
        """Publish as a Celery worker does, in order, with confirms."""
        async with plain(self.rabbit.url) as amqp_channel, asyncio.TaskGroup() as tasks:
            exchange = await amqp_channel.get_exchange(EVENTS, ensure=False)
            for body in bodies:
                message = aio_pika.Message(body, content_type="application/json", delivery_mode=2)
                tasks.create_task(exchange.publish(message, "task.multi"))

    async def job_of(self, task_id: str) -> Named | None:
        """The job of a task."""
        return (await self._foreign.named([(task_id, None)]))[0]

    async def log_of(self, task_id: str) -> list[dict[str, Any]]:
        """What the job of a task has told; nothing if there is none."""
        job = await self.job_of(task_id)
        if job is None:
            return []
        history = await self.channels.history(job.tenant, f"job:{job.job_id}", since=Position("", 0), limit=-1)
        return [json.loads(publication.event)["data"] for publication in history.publications]

    async def until_ended(self, task_ids: list[str]) -> None:
        """Wait until each has succeeded, and see that its story is whole, in order, and was told once."""
        for task_id in task_ids:

            async def ended(task_id: str = task_id) -> list[str]:
                states = [data["status"] for data in await self.log_of(task_id)]
                return states if "succeeded" in states else []

            assert await eventually(ended, RECOVERY) == ["queued", "running", "succeeded"], task_id


@pytest.fixture(scope="module")
def rabbit() -> Iterator[RabbitServer]:
    with RabbitServer() as server:
        yield server


@pytest.fixture
async def scene(rabbit: RabbitServer) -> AsyncIterator[Scene]:
    with RedisServer() as redis:
        settings = load({"GATEWAY_REDIS_URL": redis.url})
        async with plain(rabbit.url) as amqp_channel:
            await declare_celery_events(amqp_channel, QUEUE)
            await (await amqp_channel.get_queue(QUEUE)).purge()
        async with Store.open(settings) as store:
            bridges = [CeleryBridge(store, settings, BridgePlan(broker=rabbit.url)) for _ in range(2)]
            async with background(*(bridge.run() for bridge in bridges)):
                yield Scene(redis, rabbit, store, settings)


def event(type_: str, task_id: str, **fields: Any) -> bytes:
    return json.dumps({"type": type_, "uuid": task_id, "hostname": "celery@h", "name": "shop.add", **fields}).encode()


def story(task_id: str, **fields: Any) -> list[bytes]:
    return [event(type_, task_id, **fields) for type_ in STORY]


def interleaved(task_ids: list[str]) -> list[bytes]:
    """All sent, then all received, …: 20 events a message, as busy workers send them."""
    events = [event(type_, task_id) for type_ in STORY for task_id in task_ids]
    return [b"[" + b",".join(events[start : start + 20]) + b"]" for start in range(0, len(events), 20)]


@pytest.mark.timeout(300)  # the start of two brokers counts, on a machine that may be busy
async def test_ten_thousand_events_at_once_while_redis_and_the_broker_go_away(scene: Scene) -> None:
    ids = [f"burst-{number}" for number in range(2500)]
    messages = interleaved(ids)
    await scene.tell(*messages[: len(messages) // 2])
    await eventually(lambda: scene.log_of(ids[0]), RECOVERY)
    scene.redis.stop()
    await scene.tell(*messages[len(messages) // 2 :])
    await asyncio.to_thread(scene.rabbit.restart)
    scene.redis.start()
    await scene.until_ended(ids)


async def test_odd_messages_do_not_stop_it(scene: Scene) -> None:
    odd = [
        DEEP,
        b'{"type":"task-started","uuid":"x","args":' + DEEP + b"}",
        b"",
        b"\xff",
        b"null",
        b'{"type":"task-progress","uuid":"x","result":{"own":1},"name":5}',
        b'{"type":"task-received"}',
        b'{"type":"task-received","uuid":"bare"}',
        b'{"type":"task-started","uuid":"bare","hostname":null,"pid":null,"clock":null}',
        event("task-received", "x" * 5000),
    ]
    await scene.tell(*odd, *story("after"))
    await scene.until_ended(["after"])
    assert [data["status"] for data in await scene.log_of("bare")] == ["queued", "running"]


async def test_what_is_told_of_a_task_that_began_before_we_listened_is_left_out(scene: Scene) -> None:
    await scene.tell(event("task-started", "stranger"), event("task-succeeded", "stranger"), *story("after"))
    await scene.until_ended(["after"])
    assert await scene.job_of("stranger") is None


async def test_a_task_is_not_lost_when_more_are_told_of_at_once_than_are_held(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.celery.MAX_KNOWN", 2)
    ids = [f"many-{number}" for number in range(5)]
    await scene.tell(*interleaved(ids))
    await scene.until_ended(ids)


async def test_a_job_that_cannot_be_recorded_holds_up_no_other(scene: Scene) -> None:
    await scene.tell(event("task-received", "broken"))
    await eventually(lambda: scene.log_of("broken"), RECOVERY)
    job = await scene.job_of("broken")
    assert job is not None
    client = scene.store.client
    for key in [key async for key in client.scan_iter(f"*{job.job_id}") if await client.type(key) == b"hash"]:
        await client.delete(key)
        await client.set(key, "not a job")
    await scene.tell(event("task-started", "broken"), *story("other"))
    await scene.until_ended(["other"])


@pytest.mark.parametrize(
    "fields",
    [
        {"hostname": 'w"\\\n\x00 \u2028 {sNN} 👷@h'},
        {"hostname": "h" * 5000},
        {"name": "a" * 5000},
        {"name": ".".join(["päth"] * 1000)},
        {"name": "\x00"},
        {"args": "(" * 5000, "kwargs": "{'a': " * 1000},
        {"result": "<" + "x" * 300_000},
        {"root_id": "\x00" * 5000},
        {"retries": 2**70},
    ],
)
async def test_odd_fields_are_told_all_the_same(scene: Scene, fields: dict[str, Any]) -> None:
    await scene.tell(*story("odd", **fields))
    await scene.until_ended(["odd"])
    assert (await scene.log_of("odd"))[-1]["tenant"] == DEFAULT_TENANT
