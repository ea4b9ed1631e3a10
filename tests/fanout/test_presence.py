from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from gateway.auth.principals import Capability
from gateway.fanout import crowds
from gateway.fanout.options import HubOptions
from gateway.fanout.session import Session
from gateway.settings import ChannelRules, Settings
from gateway.store.channels import ChannelStore
from gateway.store.presence import Change, Lease, PresenceStore
from gateway.store.redis import Store
from tests.fanout.conftest import StartNode
from tests.fanout.support import ROOT_KEY, Node, WsClient, publish, settings_for, token, ws
from tests.fanout.support import node as node_of
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

FAST = HubOptions(lease=0.6, probe=5, linger=0.3, drain=0.1, farewell=1.0)
RULES = {
    "room": ChannelRules(subscribe="authenticated", publish="anyone", presence=True),
    "hall": ChannelRules(subscribe="authenticated", publish="anyone", presence=True, join_leave=True),
    "pipe": ChannelRules(subscribe="authenticated", join_leave=True),
    "open": ChannelRules(subscribe="anyone"),
    "guarded": ChannelRules(presence=True),
}


@pytest.fixture
def settings(redis_url: str, redis: Redis) -> Settings:
    del redis  # emptied
    return settings_for(redis_url, channels=RULES)


@pytest.fixture
async def arrive() -> AsyncIterator[Any]:
    """Connect as somebody: `await arrive(node, "ann")`; they stay until the test ends."""
    async with AsyncExitStack() as stack:

        async def come(node: Node, subject: str, **claims: Any) -> WsClient:
            client = await stack.enter_async_context(ws(node, hello=False))
            client.id = (await client.connect(token=token(subject, **claims)))["connect"]["client"]
            return client

        yield come


async def present(client: WsClient, channel: str) -> dict[str, Any]:
    return dict((await client.ask(presence={"channel": channel}))["presence"]["presence"])


async def stats(client: WsClient, channel: str) -> tuple[int, int]:
    found = (await client.ask(presence_stats={"channel": channel}))["presence_stats"]
    return found["num_clients"], found["num_users"]


async def becomes(client: WsClient, channel: str, expected: tuple[int, int]) -> None:
    async def as_expected() -> bool:
        return await stats(client, channel) == expected

    await eventually(as_expected)


async def moves(client: WsClient, count: int) -> list[tuple[str, str]]:
    """Read joins and leaves: what happened, and whose client it was."""
    found: list[tuple[str, str]] = []
    while len(found) < count:
        push = (await client.next())["push"]
        found += [(kind, push[kind]["info"]["client"]) for kind in ("join", "leave") if kind in push]
    return found


def stop_heart(node: Node) -> None:
    """From here on the node renews nothing, as if its process had been killed."""
    for task in list(node.hub._work):
        task.cancel()


async def test_members_are_seen_from_every_node(start: StartNode, arrive: Any) -> None:
    first, second = await start(options=FAST), await start(options=FAST)
    ann = await arrive(first, "ann", info=msgspec.Raw(b'{"name":"Ann"}'))
    bob = await arrive(second, "bob")
    again = await arrive(second, "bob")
    for client in (ann, bob, again):
        await client.subscribe("room:a")
    for client in (ann, bob):
        await becomes(client, "room:a", (3, 2))
        assert await present(client, "room:a") == {
            ann.id: {"user": "ann", "client": ann.id, "conn_info": {"name": "Ann"}},
            bob.id: {"user": "bob", "client": bob.id},
            again.id: {"user": "bob", "client": again.id},
        }
    await bob.ask(unsubscribe={"channel": "room:a"})
    await becomes(ann, "room:a", (2, 2))
    await again.socket.close()
    await becomes(ann, "room:a", (1, 1))
    assert await present(bob, "room:empty") == {}
    assert await stats(bob, "room:empty") == (0, 0)


async def test_a_subscription_token_adds_what_it_says_of_the_member(start: StartNode, arrive: Any) -> None:
    node = await start()
    ann = await arrive(node, "ann", caps=[Capability(channels=("guarded:a",), allow=("prs",))])
    assert (await ann.subscribe("guarded:a"))["error"]["code"] == 103
    one = token("ann", channel="guarded:a", info=msgspec.Raw(b'{"role":"owner"}'))
    assert "subscribe" in await ann.subscribe("guarded:a", token=one)
    await becomes(ann, "guarded:a", (1, 1))
    assert (await present(ann, "guarded:a"))[ann.id]["chan_info"] == {"role": "owner"}


async def test_presence_is_for_who_may_see_it_where_it_is_kept(start: StartNode, arrive: Any) -> None:
    node = await start()
    ann = await arrive(node, "ann")
    for command in ("presence", "presence_stats"):

        async def refused(channel: str, command: str = command) -> int:
            return int((await ann.ask(**{command: {"channel": channel}}))["error"]["code"])

        assert await refused("guarded:a") == 103
        assert await refused("open:a") == 108
        assert await refused("pipe:a") == 108
        assert await refused("not a channel") == 107


async def test_presence_over_http(start: StartNode, arrive: Any) -> None:
    node = await start()
    members = [await arrive(node, f"user{number}") for number in range(3)]
    for member in members:
        await member.subscribe("room:a/b")
    await becomes(members[0], "room:a/b", (3, 3))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{node.port}") as http:
        http.headers["Authorization"] = f"Bearer {ROOT_KEY}"
        found = (await http.get("/v1/channels/room:a/b/presence")).json()
        assert (found["num_clients"], found["num_users"]) == (3, 3)
        assert found["presence"][members[0].id] == {"user": "user0", "client": members[0].id}
        found = (await http.get("/v1/channels/room:a/b/presence?limit=1")).json()
        assert (found["num_clients"], len(found["presence"])) == (3, 1)
        assert (await http.get("/v1/channels/open:a/presence")).status_code == 404
        assert (await http.get("/v1/channels/room:%20/presence")).status_code == 422
        http.headers["Authorization"] = f"Bearer {token('ann')}"
        assert (await http.get("/v1/channels/guarded:a/presence")).status_code == 403
        assert (await http.get("/v1/channels/room:a/b/presence")).status_code == 200


async def test_of_a_crowd_as_many_are_listed_as_fit(start: StartNode, arrive: Any) -> None:
    node = await start(options=HubOptions(members=2))
    crowd = [await arrive(node, f"user{number}") for number in range(5)]
    for member in crowd:
        await member.subscribe("room:a")
    await becomes(crowd[0], "room:a", (5, 5))
    listed = await present(crowd[0], "room:a")
    assert len(listed) == 2
    assert set(listed) < {member.id for member in crowd}


async def test_what_the_store_refuses_holds_nobody_else_up(start: StartNode, arrive: Any, redis: Redis) -> None:
    node = await start()
    ann, bob = await arrive(node, "ann"), await arrive(node, "bob")
    await ann.subscribe("room:a")
    await becomes(ann, "room:a", (1, 1))
    (shard,) = node.hub.presence._shards.values()
    await redis.set(f"{shard.tag}prs:in:default:room:broken:{shard.node}", "not a hash")
    await bob.subscribe("room:broken")
    await eventually(lambda: not shard.pending)
    await bob.subscribe("room:a")
    await becomes(ann, "room:a", (2, 2))


async def crowd(store: PresenceStore, channel: str) -> None:
    """Let 800 clients of 400 users be on two nodes."""
    shard = store.tag("default")
    for name in ("first", "second"):
        await store.begin(shard, name, 60)
        await store.show(shard, name, 60, None)
        who = [(f"{name}-{number}", f"user-{number}") for number in range(400)]
        changes = [Change("default", channel, True, False, True, client, user, "{}") for client, user in who]
        assert await store.write(shard, Lease(name, hidden=False), changes)


async def test_a_node_asks_about_a_crowd_once_a_while_whoever_wants_to_know(
    start: StartNode, arrive: Any, redis: Redis, channels: ChannelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowds, "FRESH", 60)
    node = await start()
    await crowd(PresenceStore(channels.store), "room:a")
    client = await arrive(node, "ann")
    await redis.config_resetstat()
    for _ in range(5):
        assert await stats(client, "room:a") == (800, 400)
        assert len(await present(client, "room:a")) == 800
    assert (await redis.info("commandstats"))["cmdstat_smembers"]["calls"] == 2, "each question once"


async def test_who_comes_to_a_crowd_is_seen_a_moment_later(
    start: StartNode, arrive: Any, channels: ChannelStore
) -> None:
    node = await start()
    await crowd(PresenceStore(channels.store), "room:a")
    client = await arrive(node, "ann")
    assert await stats(client, "room:a") == (800, 400)
    await client.subscribe("room:a")

    async def seen() -> bool:
        return await stats(client, "room:a") == (801, 401)

    await eventually(seen)


async def test_the_users_of_a_crowd_are_counted_once_a_second_for_all_nodes(
    channels: ChannelStore, redis: Redis
) -> None:
    store = PresenceStore(channels.store)
    await crowd(store, "a")
    counted = store.tag("default") + "prs:n:default:a"
    assert (await store.read("default", "a", limit=0, size=0)).users == 400
    assert await redis.pttl(counted) in range(-2, 1001), "-2: it has gone by itself already"
    await redis.set(counted, 7)
    assert (await store.read("default", "a", limit=0, size=0)).users == 7
    await redis.delete(counted)
    assert (await store.read("default", "a", limit=0, size=0)).users == 400


async def test_who_wants_it_hears_of_joins_and_leaves(start: StartNode, arrive: Any, channels: ChannelStore) -> None:
    node, other = await start(), await start()
    ann, bob, cid = await arrive(node, "ann"), await arrive(other, "bob"), await arrive(node, "cid")
    await ann.subscribe("room:a", join_leave=True)
    await cid.subscribe("room:a")
    await bob.subscribe("room:a")
    assert set(await moves(ann, 3)) == {("join", ann.id), ("join", cid.id), ("join", bob.id)}
    await bob.ask(unsubscribe={"channel": "room:a"})
    assert await moves(ann, 1) == [("leave", bob.id)]
    await publish(channels, "room:a", data="only this")
    push = (await cid.next())["push"]
    assert push["pub"]["data"]["data"] == "only this"
    history = (await ann.ask(history={"channel": "room:a", "limit": -1}))["history"]
    assert len(history["publications"]) == 1


@pytest.mark.parametrize("channel", ["hall:a", "pipe:a"])
async def test_a_namespace_can_tell_everyone_of_joins_and_leaves(start: StartNode, arrive: Any, channel: str) -> None:
    node = await start()
    ann, bob = await arrive(node, "ann"), await arrive(node, "bob")
    await ann.subscribe(channel)
    assert await moves(ann, 1) == [("join", ann.id)]
    await bob.subscribe(channel)
    assert await moves(ann, 1) == [("join", bob.id)]
    await bob.socket.close()
    assert await moves(ann, 1) == [("leave", bob.id)]


async def test_joins_need_the_permission_to_see_who_is_there(start: StartNode, arrive: Any) -> None:
    node = await start()
    may = [Capability(channels=("guarded:a",), allow=("sub",))]
    sees = [Capability(channels=("guarded:a",), allow=("sub", "prs"))]
    ann, bob = await arrive(node, "ann", caps=sees), await arrive(node, "bob", caps=may)
    await bob.subscribe("guarded:a", join_leave=True)
    await ann.subscribe("guarded:a", join_leave=True)
    await becomes(ann, "guarded:a", (2, 2))
    cid = await arrive(node, "cid", caps=may)
    await cid.subscribe("guarded:a")
    while await moves(ann, 1) != [("join", cid.id)]:
        pass
    await bob.ask(ping={})
    assert all("push" not in line for line in map(msgspec.json.decode, "\n".join(bob.frames).split("\n")))


async def test_who_comes_back_is_somebody_else(start: StartNode, arrive: Any) -> None:
    node = await start()
    watcher = await arrive(node, "watcher")
    await watcher.subscribe("hall:a")
    ann = await arrive(node, "ann")
    await ann.subscribe("hall:a")
    assert await moves(watcher, 2) == [("join", watcher.id), ("join", ann.id)]
    await ann.socket.close()
    back = await arrive(node, "ann")
    await back.subscribe("hall:a")
    assert await moves(watcher, 2) == [("leave", ann.id), ("join", back.id)]


async def test_who_leaves_and_comes_back_in_one_frame_has_not_left(start: StartNode, arrive: Any) -> None:
    node = await start()
    ann = await arrive(node, "ann")
    await ann.subscribe("room:a")
    await becomes(ann, "room:a", (1, 1))
    lines = [{"id": 90, "unsubscribe": {"channel": "room:a"}}, {"id": 91, "subscribe": {"channel": "room:a"}}]
    for _ in range(20):
        await ann.socket.send(b"\n".join(map(msgspec.json.encode, lines)).decode())
        assert [(await ann.next())["id"] for _ in lines] == [90, 91]
    await becomes(ann, "room:a", (1, 1))


async def test_a_node_that_dies_takes_its_members_along_without_a_word(start: StartNode, arrive: Any) -> None:
    alive, dying = await start(options=FAST), await start(options=FAST)
    ann = await arrive(alive, "ann")
    await ann.subscribe("hall:a")
    others = [await arrive(dying, f"user{number}") for number in range(3)]
    for other in others:
        await other.subscribe("hall:a")
    await becomes(ann, "hall:a", (4, 4))
    await moves(ann, 4)
    stop_heart(dying)
    await becomes(ann, "hall:a", (1, 1))
    assert await present(ann, "hall:a") == {ann.id: {"user": "ann", "client": ann.id}}
    await publish(alive.channels, "hall:a", data="after it")
    assert "pub" in (await ann.next())["push"]


async def test_what_a_dead_node_left_is_swept(start: StartNode, arrive: Any, redis: Redis) -> None:
    dying = await start(options=FAST)
    crowd = await arrive(dying, "ann")
    for number in range(150):
        await crowd.subscribe(f"room:{number}")
    await becomes(crowd, "room:149", (1, 1))
    stop_heart(dying)
    alive = await start(options=FAST)
    bob = await arrive(alive, "bob")
    await bob.subscribe("room:x")

    async def left() -> list[bytes]:
        return [key for key in await redis.keys("{s00}:prs*") if isinstance(key, bytes)]

    async def swept() -> bool:
        return len(await left()) == 5  # what is bob's

    await eventually(swept)
    assert await stats(bob, "room:149") == (0, 0)


@pytest.mark.parametrize("lost", ["everything", "the lease"])
async def test_a_node_announces_its_members_again_when_they_were_lost(
    start: StartNode, arrive: Any, redis: Redis, lost: str
) -> None:
    node = await start(options=FAST)
    clients = [await arrive(node, f"user{number}") for number in range(3)]
    for client in clients:
        await client.subscribe("hall:a")
    await becomes(clients[0], "hall:a", (3, 3))
    await moves(clients[0], 3)
    if lost == "everything":
        await redis.flushall()
    else:
        await redis.delete("{s00}:prs")
    await becomes(clients[0], "hall:a", (3, 3))
    late = await arrive(node, "late")
    await late.subscribe("hall:b")
    await clients[1].socket.close()
    await becomes(clients[0], "hall:a", (2, 2))
    assert await moves(clients[0], 1) == [("leave", clients[1].id)]


@pytest.mark.parametrize("data", ["kept", "lost"])
async def test_presence_survives_a_restart_of_the_store(arrive: Any, data: str) -> None:
    with RedisServer() as server:
        settings = settings_for(server.url, channels=RULES)
        async with node_of(settings, FAST) as first, node_of(settings, FAST) as second:
            ann, bob, cid = await arrive(first, "ann"), await arrive(second, "bob"), await arrive(second, "cid")
            for client in (ann, bob, cid):
                await client.subscribe("hall:a")
            await becomes(ann, "hall:a", (3, 3))
            await moves(ann, 3)
            server.kill()
            await bob.socket.close()  # and this cannot be written now
            if data == "lost":
                server.wipe()
            server.start()
            for client in (ann, cid):
                await subscribe_again(client, "hall:a")
            await becomes(ann, "hall:a", (2, 2))
            assert set(await present(cid, "hall:a")) == {ann.id, cid.id}


async def subscribe_again(client: WsClient, channel: str) -> None:
    """Do what clients do when they are told that the server may have forgotten something."""
    while "unsubscribe" not in (push := (await client.next(15))["push"]):
        pass
    assert push["unsubscribe"]["code"] == 2500
    assert "subscribe" in await client.subscribe(channel)


class Counted(PresenceStore):
    """Counts what is written at once."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.sizes: list[int] = []

    async def write(self, shard: str, lease: Lease, changes: Sequence[Change]) -> bool:
        self.sizes.append(len(changes))
        return await super().write(shard, lease, changes)


async def test_many_who_come_at_once_are_written_together(start: StartNode) -> None:
    node = await start(options=HubOptions(subscriptions=10_000))
    counted = node.hub.presence._store = Counted(node.channels.store)
    async with ws(node, hello=False) as client:
        await client.connect(token=token("ann"))
        lines = [{"id": number, "subscribe": {"channel": f"room:{number}"}} for number in range(10, 1010)]
        await client.socket.send(b"\n".join(map(msgspec.json.encode, lines)).decode())
        for _ in lines:
            assert "subscribe" in await client.next()
        await becomes(client, "room:1009", (1, 1))
        assert sum(counted.sizes) == len(lines)
        assert len(counted.sizes) <= len(lines) / 4
        counted.sizes.clear()
    await eventually(lambda: sum(counted.sizes) == len(lines))
    assert len(counted.sizes) == 2


async def test_a_slow_reader_misses_joins_and_keeps_its_publications(
    start: StartNode, arrive: Any, channels: ChannelStore
) -> None:
    node = await start()
    ann, slow = await arrive(node, "ann"), await arrive(node, "slow")
    for client in (slow, ann):
        await client.subscribe("hall:a")
    await moves(ann, 1)
    (mine,) = [each for each in node.hub.connections if isinstance(each, Session) and each.client == slow.id]
    await moves(slow, 2)
    mine.pause_writing()
    crowd = [await arrive(node, f"user{number}") for number in range(5)]
    for member in crowd:
        await member.subscribe("hall:a")
    await moves(ann, 5)
    await publish(channels, "hall:a", data=1)
    while "pub" not in (await ann.next())["push"]:
        pass
    mine.resume_writing()
    assert "pub" in (await slow.next())["push"]


async def test_joins_that_come_faster_than_they_can_be_told_are_left_out(start: StartNode, arrive: Any) -> None:
    node = await start()
    ann = await arrive(node, "ann")
    await ann.subscribe("hall:a")
    await moves(ann, 1)
    (topic,) = node.hub.topics.values()
    line = b'+{"user":"x","client":"y","conn_info":"%b"}' % (b"x" * 1000)
    for _ in range(1000):
        node.hub.pump.tell(topic, [line])
    heard = 1000 - node.hub.counters.untold
    assert 0 < heard < 100
    assert await moves(ann, heard) == [("join", "y")] * heard
