"""A real Redis Cluster of three masters: every script on every master, a master that dies, a slot that moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import RedisError

import gateway
from gateway.auth.keys import KeyStore
from gateway.auth.principals import Principal
from gateway.auth.tickets import Tickets
from gateway.errors import StoreUnavailable, Unauthenticated
from gateway.events import Position, draft, new_id
from gateway.jobs.store import JobStore
from gateway.jobs.task_types import TaskTypes
from gateway.settings import Settings, load
from gateway.store.address import Node, RedisAddress
from gateway.store.breakers import Breakers
from gateway.store.channels import ChannelStore
from gateway.store.cluster import ClusterClient
from gateway.store.locks import Locks
from gateway.store.places import places
from gateway.store.presence import PresenceStore
from gateway.store.rates import Rates
from gateway.store.redis import Script, Store
from tests.store import lives
from tests.support.clusters import SLOTS, RedisCluster
from tests.support.proxy import TcpProxy
from tests.support.waiting import eventually

TENANTS = ("t1", "t0", "t4")  # on the first, second and third master


class Watched(Store):
    """Remembers which scripts ran."""

    ran: set[str]

    async def run(self, script: Script, shard_tag: str, **arguments: object) -> Any:
        self.ran.add(script.name)
        return await super().run(script, shard_tag, **arguments)

    async def run_gathered(self, script: Script, shard_tag: str, **arguments: object) -> Any:
        self.ran.add(script.name)
        return await super().run_gathered(script, shard_tag, **arguments)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as running:
        yield running


@pytest.fixture
def settings(cluster: RedisCluster) -> Settings:
    return load({"GATEWAY_REDIS_URL": cluster.url, "GATEWAY_SHARDS": "8"})


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Watched]:
    async with Watched.open(settings) as opened:
        opened.ran = set()
        yield opened


@pytest.fixture
def channels(store: Store, settings: Settings) -> ChannelStore:
    return ChannelStore(store, settings)


def at_home(store: Store, tenant: str) -> int:
    return key_slot(store.tag(tenant).encode()) * 3 // SLOTS


async def publish(channels: ChannelStore, tenant: str, channel: str, data: object) -> Position:
    event = draft("test.event", str(data).encode(), id_=new_id("evt_"), source="/tests")
    (position,) = await channels.publish(tenant, [channel], event)
    return position


async def offsets(channels: ChannelStore, tenant: str, channel: str) -> list[int]:
    history = await channels.history(tenant, channel, since=Position("", 0), limit=-1)
    return [publication.offset for publication in history.publications]


@pytest.mark.parametrize("tenant", TENANTS)
async def test_every_script_works_on_every_master(store: Watched, channels: ChannelStore, tenant: str) -> None:
    assert at_home(store, tenant) == TENANTS.index(tenant)
    await lives.job_life(JobStore(store), channels, tenant)
    await lives.family_life(JobStore(store), channels, tenant)
    await lives.control_life(JobStore(store), TaskTypes(store), tenant)
    await lives.dead_letter_life(store, JobStore(store), channels, tenant)
    await publish(channels, tenant, "a", 1)
    generation, sequence = await channels.head(tenant)
    await publish(channels, tenant, "b", 2)
    replay = await channels.replay(tenant, ["a", "b"], generation=generation, sequence=sequence)
    assert [(channel, publication.offset) for channel, publication in replay.publications] == [("b", 1)]
    assert (await channels.position(tenant, "a")).offset == 1
    tickets = Tickets(store, KeyStore(store, Settings()))
    ticket = await tickets.issue(Principal(tenant=tenant, subject="ann", kind="token"))
    assert (await tickets.open(ticket.ticket, proven=False)).subject == "ann"
    with pytest.raises(Unauthenticated):
        await tickets.open(ticket.ticket, proven=False)
    await lives.foreign_life(store, tenant)
    await lives.keys_and_revocations(store, tenant)
    await lives.presence_life(PresenceStore(store), tenant)
    await Rates(store, 100, 10).spend(tenant)
    assert (await Locks(store).take(tenant, "l", "owner", 60)).fence
    await lives.breaker_life(Breakers(store), tenant)
    assert not await channels.tell(tenant, "nobody")
    await channels.live(tenant, 60)
    assert await channels.tell(tenant, "somebody")
    packages = Path(gateway.__file__).parent.glob("*/lua/*.lua")
    scripts = {f"gateway.{path.parts[-3]}/lua/{path.name}" for path in packages if "prelude" not in path.name}
    scripts -= {"gateway.auth/lua/revocations.lua"}  # the prelude of the others
    assert store.ran == scripts, "a new script belongs into this test"


async def test_keys_go_through_it(store: Store) -> None:
    keys = KeyStore(store, Settings())
    key, token = await keys.create("acme", "ci", ["jobs:write"])
    principal = await keys.lookup(token)
    assert principal is not None
    assert principal.subject == key.id
    assert await keys.list("acme") == [key]
    await keys.revoke("acme", key.id)
    assert await keys.list("acme") == []
    assert not await keys.is_live(principal)


async def test_a_script_is_loaded_where_it_is_missing(store: Store, channels: ChannelStore) -> None:
    for server in await store.servers():
        await server.script_flush()
    for tenant in TENANTS:
        await channels.head(tenant)


async def test_one_dead_master_takes_only_its_tenants_along(
    cluster: RedisCluster, store: Store, channels: ChannelStore
) -> None:
    for tenant in TENANTS:
        await publish(channels, tenant, "kept", 0)
    before = {tenant: await channels.position(tenant, "kept") for tenant in TENANTS}
    dead = cluster.nodes[1]
    await asyncio.to_thread(dead.stop)
    try:
        for _ in range(20):
            with pytest.raises(StoreUnavailable):
                await publish(channels, TENANTS[1], "kept", 1)
            for tenant in (TENANTS[0], TENANTS[2]):
                await publish(channels, tenant, "kept", 1)
        await store.ping()
    finally:
        await asyncio.to_thread(dead.start)
        await asyncio.to_thread(cluster.settle)
    for tenant in TENANTS:
        await asyncio.gather(*(publish(channels, tenant, "kept", 2) for _ in range(10)))
    after = {tenant: await channels.position(tenant, "kept") for tenant in TENANTS}
    restarted = [tenant for tenant in TENANTS if before[tenant].epoch != after[tenant].epoch]
    assert restarted == [TENANTS[1]], "only what was restarted has a new generation"
    assert [after[tenant].offset for tenant in TENANTS] == [31, 11, 31]


async def test_nothing_is_torn_while_a_slot_moves(cluster: RedisCluster, store: Store, channels: ChannelStore) -> None:
    tenant, source, target = "t4", 2, 0
    slot = key_slot(store.tag(tenant).encode())
    for number in range(200):
        await publish(channels, tenant, f"many:{number}", number)
    done = asyncio.Event()
    counted = {"accepted": 0, "refused": 0}

    async def produce() -> None:
        while not done.is_set():
            try:
                await publish(channels, tenant, "moved", counted["accepted"])
                counted["accepted"] += 1
            except StoreUnavailable:
                counted["refused"] += 1
            await asyncio.sleep(0.002)

    async with asyncio.TaskGroup() as group:
        group.create_task(produce())
        await eventually(lambda: counted["accepted"] > 20)
        await asyncio.to_thread(move, cluster, slot, source, target)
        moved = counted["accepted"]
        await eventually(lambda: counted["accepted"] > moved + 20)
        done.set()
    assert counted["refused"] > 0
    assert await offsets(channels, tenant, "moved") == list(range(1, counted["accepted"] + 1))
    sequences = [await channels.history(tenant, f"many:{n}", since=None, limit=1, reverse=True) for n in range(200)]
    assert [history.publications[0].offset for history in sequences] == [1] * 200
    assert cluster.ask(source, "CLUSTER", "COUNTKEYSINSLOT", slot) == 0


def move(cluster: RedisCluster, slot: int, source: int, target: int) -> None:
    """Migrate a slot as redis-cli does it, a key at a time."""
    cluster.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.id_of(source))
    cluster.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.id_of(target))
    while keys := cluster.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1):
        assert isinstance(keys, list)
        cluster.ask(source, "MIGRATE", "127.0.0.1", cluster.nodes[target].port, keys[0], 0, 5000)
    for number in (target, source, 1):
        cluster.ask(number, "CLUSTER", "SETSLOT", slot, "NODE", cluster.id_of(target))


async def test_a_command_without_a_key_is_refused(store: Store) -> None:
    with pytest.raises(RedisError, match="no key"):
        await store.client.ping()
    assert [await server.ping() for server in await store.servers()] == [True] * 3


async def test_clients_of_nodes_that_left_are_dropped(store: Store, channels: ChannelStore) -> None:
    for tenant in TENANTS:
        await channels.head(tenant)
    client = store.client
    assert isinstance(client, ClusterClient)
    left, masters = client.at(Node("127.0.0.1", 1)), set(await client.slots.masters())
    client.at(Node("127.0.0.1", 2))
    assert left not in client._clients.values()
    assert set(client._clients) <= masters | {Node("127.0.0.1", 2)}
    for tenant in TENANTS:
        await channels.head(tenant)


async def test_a_node_is_found_although_all_of_the_url_have_been_replaced(cluster: RedisCluster) -> None:
    async with TcpProxy(cluster.nodes[0].port) as proxy:
        url = f"redis+cluster://127.0.0.1:{proxy.port}"
        async with Store.open(load({"GATEWAY_REDIS_URL": url, "GATEWAY_SHARDS": "8"})) as opened:
            await opened.ping()
            proxy.cut()
            found = await places(RedisAddress.parse(url)).find()
    assert found.port in {server.port for server in cluster.nodes}
