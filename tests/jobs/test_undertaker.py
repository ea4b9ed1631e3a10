"""The undertaker on a real Redis and a RabbitMQ of its own: each way to it, and what becomes of what it finds."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import aio_pika
import pytest
import structlog
from aio_pika.abc import AbstractChannel, AbstractQueue
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.errors import ConfigurationError, GatewayError
from gateway.jobs import undertaker as module
from gateway.jobs.local import LocalQueue
from gateway.jobs.queue import DELIVERY_LIMIT, encode
from gateway.jobs.rabbitmq import RabbitQueue
from gateway.jobs.records import Claim
from gateway.jobs.topology import DEAD_LETTERS, burial_headers, declare_dead_letters
from gateway.jobs.undertaker import Undertaker
from gateway.store.deadletters import UNOWNED
from tests.consumers.support import TENANT
from tests.jobs.burial import World, open_world, reject, send, wear_out
from tests.support.brokers import plain
from tests.support.messages import PREFETCH, Inbox, make_message
from tests.support.waiting import eventually

WORKER = {"token": "t", "worker": "w", "lease": 60.0}


@pytest.fixture(params=["local", "rabbit"])
async def world(request: pytest.FixtureRequest, redis_url: str, redis: Redis, pool: str) -> AsyncIterator[World]:
    """On both queues: what is dead there is dealt with alike."""
    del redis  # emptied
    rabbit = request.getfixturevalue("rabbit") if request.param == "rabbit" else None
    async with open_world(LocalQueue() if rabbit is None else RabbitQueue(rabbit.url), redis_url, pool) as world:
        yield world


async def test_a_job_nobody_began_with_comes_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = world.bench
    job_id = await bench.submit()
    await wear_out(bench.queue, bench.pool, monkeypatch)
    async with world.burying(again=0):
        await bench.until(job_id, "accepted")
        await world.until_empty()
    assert await world.listed() == []
    message = await bench.hand_over(job_id)
    assert (message.run, message.attempt) == (1, 1)
    assert await bench.events(job_id) == ["job.queued"], "nobody heard of it"
    assert isinstance(await bench.jobs.claim(message, **WORKER), Claim)  # type: ignore[arg-type] # the words above


async def test_it_is_not_due_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = await world.bench.submit()
    await wear_out(world.bench.queue, world.bench.pool, monkeypatch)
    async with world.burying():
        await world.bench.until(job_id, "accepted")
    due = (await world.bench.due())[job_id] - time.time()
    assert module.AGAIN / 2 < due <= module.AGAIN + 1


async def test_a_job_whose_message_a_worker_refused_has_failed(world: World) -> None:
    job_id = await world.bench.submit()
    await reject(world.bench.queue, world.bench.pool, "cannot be dealt with here")
    async with world.burying():
        (letter,) = await world.until(1)
        await world.until_empty()
    assert (letter["id"], letter["reason"]) == (job_id, "rejected")
    job = await world.bench.job(job_id)
    assert job["status"] == "failed"
    assert job["error"]["message"] == "cannot be dealt with here"
    assert [attempt["error"]["type"] for attempt in job["attempts"]] == ["Rejected"]


async def test_a_job_that_went_on_is_left_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = world.bench
    job_id = await bench.submit()
    message = await bench.message(job_id)
    await wear_out(bench.queue, bench.pool, monkeypatch)
    claim = await bench.jobs.claim(message, **WORKER)  # type: ignore[arg-type] # the words above
    assert isinstance(claim, Claim)
    async with world.burying(again=0):
        await world.until_empty()
        await bench.jobs.advance(TENANT, job_id, fence=claim.fence, op=1, to="succeeded", result="1")
    assert await bench.events(job_id) == ["job.queued", "job.started", "job.succeeded"]


async def test_a_job_that_redis_lost_is_rebuilt(world: World, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = world.bench
    job_id = await bench.submit(value={"list": []})
    await wear_out(bench.queue, bench.pool, monkeypatch)
    await redis.flushall()
    async with world.burying(again=0):

        async def rebuilt() -> bool:
            return await bench.jobs.get(TENANT, job_id) is not None

        await eventually(rebuilt)
        await world.until_empty()
    assert (await bench.job(job_id))["status"] == "accepted"
    assert bytes((await bench.hand_over(job_id)).input) == b'{"list": []}'


async def test_a_job_that_is_neither_kept_nor_young_is_shown_as_what_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = world.bench
    message = make_message(bench.pool, created_at=1000)
    await bench.queue.publish(message)
    await wear_out(bench.queue, bench.pool, monkeypatch)
    async with world.burying():
        (letter,) = await world.until(1)
        await world.until_empty()
    assert (letter["kind"], letter["reason"]) == ("message", "lost")
    shown = json.loads(await world.dead.show(TENANT, letter["id"]))
    assert shown["message"]["body"]["text"] == encode(message).decode()


async def test_what_cannot_be_recorded_is_kept_as_a_message(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> str:
        raise GatewayError("the script is broken")

    monkeypatch.setattr(Undertaker, "_decide", broken)
    await world.bench.submit()
    await reject(world.bench.queue, world.bench.pool, "no")
    async with world.burying():
        (letter,) = await world.until(1)
        await world.until_empty()
    assert (letter["reason"], letter["group"]["error_type"]) == ("unrecorded", "Unrecorded")


async def test_what_is_no_message_waits_for_the_operator_and_can_be_put_back(on_rabbit: World) -> None:
    bench = on_rabbit.bench
    inbox = Inbox()
    body = b"\xff not a job"
    async with on_rabbit.burying(), bench.queue.consume(bench.pool, PREFETCH, inbox):
        await send(on_rabbit, body, headers={"traceparent": "00-x"}, message_id="m1")
        (letter,) = await on_rabbit.until(1, UNOWNED)
        assert (letter["reason"], letter["kind"]) == ("undecodable", "message")
        message = letter["message"]
        assert (message["source"], message["message_id"]) == (f"jobs.{bench.pool}.default", "m1")
        assert message["headers"] == {"traceparent": "00-x"}
        assert "malformed" in message["detail"]
        assert await on_rabbit.listed() == []
    await on_rabbit.dead.requeue(UNOWNED, letter["id"])
    assert await on_rabbit.listed(UNOWNED) == []
    async with plain(bench.queue._url) as amqp_channel:  # type: ignore[attr-defined] # it is a RabbitQueue
        queue = await amqp_channel.get_queue(f"jobs.{bench.pool}.default", ensure=False)
        again = await queue.get()
        await again.ack()
    assert again.body == body
    assert {name for name in again.headers if name != "x-delivery-count"} == {"traceparent"}


async def test_what_the_broker_gave_up_says_so(on_rabbit: World) -> None:
    """A queue whose consumer never gets as far as reading: the delivery limit of the quorum queue itself."""
    bench = on_rabbit.bench
    async with plain(bench.queue._url) as amqp_channel:  # type: ignore[attr-defined] # it is a RabbitQueue
        await send(on_rabbit, b"{}", message_id="m2")
        queue = await amqp_channel.get_queue(f"jobs.{bench.pool}.default", ensure=False)
        for _ in range(DELIVERY_LIMIT + 1):
            incoming = await queue.get(timeout=10)
            await incoming.nack(requeue=True)
    async with on_rabbit.burying():
        (letter,) = await on_rabbit.until(1, UNOWNED)
    assert letter["reason"] == "undecodable"
    assert letter["message"]["source"] == f"jobs.{bench.pool}.default"
    (death,) = letter["message"]["headers"]["x-death"]
    assert (death["reason"], death["queue"]) == ("delivery_limit", f"jobs.{bench.pool}.default")


async def test_whoever_buries_a_message_may_say_whose_it_is(on_rabbit: World) -> None:
    headers = burial_headers({}, "undecodable: no type", source="gateway.events", message_id="m3", tenant="acme")
    async with plain(on_rabbit.bench.queue._url) as amqp_channel:  # type: ignore[attr-defined] # it is a RabbitQueue
        await amqp_channel.default_exchange.publish(aio_pika.Message(b"{}", headers=headers), DEAD_LETTERS)
    async with on_rabbit.burying():
        (letter,) = await on_rabbit.until(1, "acme")
    message = letter["message"]
    assert (letter["reason"], message["detail"], message["source"]) == ("undecodable", "no type", "gateway.events")
    assert (message["message_id"], message["headers"]) == ("m3", {})


async def test_a_queue_that_is_gone_takes_nothing_back(on_rabbit: World) -> None:
    raw = await on_rabbit.letters.bury(None, "undecodable", "nowhere", b"x", {})
    with pytest.raises(GatewayError):
        await on_rabbit.dead.requeue(UNOWNED, raw)
    assert [letter["id"] for letter in await on_rabbit.listed(UNOWNED)] == [raw]


async def test_letters_that_wait_for_long_are_told_of(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def deep() -> int:
        return 7

    monkeypatch.setattr(world.bench.queue, "dead_depth", deep)
    structlog.contextvars.clear_contextvars()
    with capture_logs() as logs:
        async with world.burying(look_every=0.02):
            await eventually(lambda: any(line["event"] == "undertaker.behind" for line in logs))
    assert next(line for line in logs if line["event"] == "undertaker.behind")["letters"] == 7


async def test_a_queue_that_is_not_as_it_should_be_is_told_of_and_stops_nothing_else(
    on_rabbit: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = True

    async def refused(amqp_channel: AbstractChannel) -> AbstractQueue:
        if broken:
            raise ConfigurationError("jobs.dlq has other arguments")
        return await declare_dead_letters(amqp_channel)

    monkeypatch.setattr("gateway.jobs.rabbitmq.declare_dead_letters", refused)
    job_id = await on_rabbit.bench.submit()
    await reject(on_rabbit.bench.queue, on_rabbit.bench.pool, "no")
    with capture_logs() as logs:
        async with on_rabbit.burying(look_every=0.05):
            await eventually(lambda: [line["event"] for line in logs].count("undertaker.not_consuming") > 1)
            assert {line["reason"] for line in logs if line["event"] == "undertaker.not_consuming"} == {
                "jobs.dlq has other arguments"
            }
            broken = False
            assert [letter["id"] for letter in await on_rabbit.until(1)] == [job_id]


async def test_a_message_of_another_version_is_tried_again(world: World) -> None:
    """An older worker may not understand what a newer gateway sends: that is no reason to fail a job."""
    job_id = await world.bench.submit()
    await reject(world.bench.queue, world.bench.pool, "undecodable: a field is missing")
    async with world.burying(again=0):
        await world.bench.until(job_id, "accepted")
    assert await world.listed() == []
