"""Publishing, history and replay on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from gateway.errors import BodyTooLarge
from gateway.events import Draft, Position, Publication, draft, parse_live
from gateway.settings import load
from gateway.store.channels import ChannelStore, Outgoing
from gateway.store.redis import Store
from tests.support.servers import RedisServer

T = "default"


def event(id_: str = "e1", data: bytes = b'{"list":[],"big":9007199254740993}') -> Draft:
    return draft("order.shipped", data, id_=id_, source="/tests")


@pytest.fixture
async def channels(redis_url: str, redis: Redis) -> AsyncIterator[ChannelStore]:
    del redis  # emptied
    rules = '{"short":{"history_size":3},"none":{"history_size":0}}'
    settings = load({"GATEWAY_REDIS_URL": redis_url, "GATEWAY_CHANNELS": rules})
    async with Store.open(settings) as store:
        yield ChannelStore(store, settings)


def offsets(publications: list[Publication]) -> list[int]:
    return [publication.offset for publication in publications]


async def test_offsets_are_contiguous_and_data_survives_to_the_byte(channels: ChannelStore) -> None:
    for n in range(3):
        (position,) = await channels.publish(T, ["a"], event(str(n)))
        assert position.offset == n + 1
    history = await channels.history(T, "a", since=Position("", 0), limit=-1)
    assert offsets(history.publications) == [1, 2, 3]
    assert b'"data":{"list":[],"big":9007199254740993}}' in history.publications[0].event


async def test_the_live_payload_is_the_history_entry(channels: ChannelStore, redis: Redis) -> None:
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(channels.live_channel(T, "a"))
        await pubsub.get_message(timeout=5)
        await channels.publish(T, ["a"], event(), key="k", info=b'{"user":"a b"}')
        message = await pubsub.get_message(timeout=5)
        assert message is not None
    live = parse_live(message["data"])
    assert live == (await channels.history(T, "a", since=Position("", 0), limit=1)).publications[0]
    assert (live.key, live.info) == ("k", b'{"user":"a b"}')


async def test_a_repeated_event_returns_its_old_position(channels: ChannelStore) -> None:
    first = await channels.publish(T, ["a", "b"], event(), dedupe=True)
    await channels.publish(T, ["a"], event("other"))
    again = await channels.publish(T, ["b", "a", "c"], event(), dedupe=True)
    assert again[:2] == [first[1], first[0]]
    assert again[2].offset == 1
    assert (await channels.position(T, "a")).offset == 2


async def test_an_empty_channel_keeps_its_epoch(channels: ChannelStore) -> None:
    before = await channels.position(T, "a")
    await channels.publish(T, ["x"], event())
    (after,) = await channels.publish(T, ["a"], event())
    assert before == (after.epoch, 0)


async def test_history_that_does_not_reach_back_says_so(channels: ChannelStore) -> None:
    for n in range(5):
        await channels.publish(T, ["short:a"], event(str(n)))
    epoch = (await channels.position(T, "short:a")).epoch
    for offset, complete in [(0, False), (1, False), (2, True), (4, True), (5, True), (6, False)]:
        history = await channels.history(T, "short:a", since=Position(epoch, offset), limit=-1)
        assert history.complete is complete, offset
        assert history.offset == 5
        if complete:
            assert offsets(history.publications) == list(range(offset + 1, 6))
    assert not (await channels.history(T, "short:a", since=Position("another", 5), limit=-1)).complete


async def test_a_channel_without_history_proves_only_its_head(channels: ChannelStore) -> None:
    (position,) = await channels.publish(T, ["none:a"], event())
    assert (await channels.history(T, "none:a", since=position, limit=-1)).complete
    assert not (await channels.history(T, "none:a", since=Position("", 0), limit=-1)).complete


async def test_many_events_are_written_in_parts_and_too_many_refused(channels: ChannelStore) -> None:
    large = b'"' + b"x" * 200_000 + b'"'
    names = [f"c{n}" for n in range(30)]
    found = await channels.publish_many(T, [Outgoing(event(str(n), large), names) for n in range(5)])
    assert [[position.offset for position in positions] for positions in found] == [[n] * 30 for n in range(1, 6)]
    with pytest.raises(BodyTooLarge):
        await channels.publish_many(T, [Outgoing(event(str(n), large), names * 2) for n in range(6)])
    assert (await channels.position(T, "c0")).offset == 5


async def test_history_in_reverse_and_in_pages(channels: ChannelStore) -> None:
    await channels.publish_many(T, [Outgoing(event(str(n)), ["a"]) for n in range(1000)])
    newest = await channels.history(T, "a", since=None, limit=3, reverse=True)
    assert offsets(newest.publications) == [1000, 999, 998]
    older = await channels.history(T, "a", since=Position("", 998), limit=2, reverse=True)
    assert offsets(older.publications) == [997, 996]
    everything = await channels.history(T, "a", since=Position("", 0), limit=-1)
    assert offsets(everything.publications) == list(range(1, 1001))


async def test_replay_merges_channels_and_sends_an_event_once(channels: ChannelStore) -> None:
    generation, start = await channels.head(T)
    await channels.publish(T, ["a", "b"], event("1"))
    await channels.publish(T, ["b"], event("2"))
    await channels.publish(T, ["elsewhere"], event("3"))
    await channels.publish(T, ["c", "a"], event("4"))
    replay = await channels.replay(T, ["a", "b", "c", "never"], generation=generation, sequence=start)
    assert replay.complete
    assert not replay.more
    assert [item.sequence - start for _, item in replay.publications] == [1, 2, 4]
    assert replay.sequence == start + 4
    later = await channels.replay(T, ["a", "b", "c"], generation=generation, sequence=start + 2)
    assert [item.sequence - start for _, item in later.publications] == [4]


async def test_replay_in_parts_has_no_holes(channels: ChannelStore) -> None:
    generation, at = await channels.head(T)
    for n in range(30):
        await channels.publish(T, ["a"] if n % 3 else ["b", "a"], event(str(n)))
    seen: list[int] = []
    while True:
        part = await channels.replay(T, ["a", "b"], generation=generation, sequence=at, limit=7)
        seen += [item.sequence for _, item in part.publications]
        if not part.more:
            break
        at = seen[-1]
    assert seen == list(range(1, 31))


async def test_replay_that_cannot_prove_continuity_says_so(channels: ChannelStore) -> None:
    generation, start = await channels.head(T)
    for n in range(5):
        await channels.publish(T, ["short:a"], event(str(n)))
    ask = channels.replay
    assert not (await ask(T, ["short:a"], generation=generation, sequence=start)).complete
    assert not (await ask(T, ["short:a"], generation=generation, sequence=start + 1)).complete
    assert (await ask(T, ["short:a"], generation=generation, sequence=start + 2)).complete
    assert not (await ask(T, ["short:a"], generation="other", sequence=start + 5)).complete
    assert not (await ask(T, ["short:a"], generation=generation, sequence=start + 99)).complete


async def test_a_restarted_redis_raises_the_generation() -> None:
    with RedisServer() as server:
        settings = load({"GATEWAY_REDIS_URL": server.url})
        async with Store.open(settings) as store:
            channels = ChannelStore(store, settings)
            (before,) = await channels.publish(T, ["a"], event())
            generation, sequence = await channels.head(T)
        server.restart()
        async with Store.open(settings) as store:
            channels = ChannelStore(store, settings)
            (after,) = await channels.publish(T, ["a"], event("e2"))
            assert after.offset == before.offset + 1  # nothing was lost
            assert after.epoch != before.epoch  # but that cannot be known
            assert (await channels.head(T))[0] != generation
            assert not (await channels.history(T, "a", since=before, limit=-1)).complete
            assert not (await channels.replay(T, ["a"], generation=generation, sequence=sequence)).complete
