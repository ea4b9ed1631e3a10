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
from gateway.auth.principals import Credential, Principal
from gateway.auth.revocation import Revocations
from gateway.auth.tickets import Tickets
from gateway.errors import StoreUnavailable, Unauthenticated
from gateway.events import Position, draft, new_id
from gateway.jobs.arguments import Arguments
from gateway.jobs.cron import Schedule
from gateway.jobs.dead_filter import Filter
from gateway.jobs.deadletters import DeadLetters
from gateway.jobs.document import static_json
from gateway.jobs.effects import EffectStore
from gateway.jobs.foreign import Birth, ForeignJobs, Named, Seen
from gateway.jobs.foreign import Change as ForeignChange
from gateway.jobs.local import LocalQueue
from gateway.jobs.queue import Letter, encode
from gateway.jobs.rebuild import Rebuilder
from gateway.jobs.records import Claim, Holder
from gateway.jobs.restore import Restorer
from gateway.jobs.sagas import SagaStore
from gateway.jobs.store import JobStore
from gateway.jobs.submission import Submission
from gateway.jobs.task_types import Firing, TaskType, TaskTypes
from gateway.jobs.undertaker import Undertaker
from gateway.settings import Settings, load
from gateway.store.address import Node, RedisAddress
from gateway.store.breakers import Breakers, Rules
from gateway.store.channels import ChannelStore
from gateway.store.cluster import ClusterClient
from gateway.store.deadletters import DeadLetterStore
from gateway.store.locks import Locks
from gateway.store.places import places
from gateway.store.presence import Change, Lease, PresenceStore
from gateway.store.rates import Rates
from gateway.store.redis import Script, Store
from tests.support.clusters import SLOTS, RedisCluster
from tests.support.messages import TRACE
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


async def job_life(jobs: JobStore, channels: ChannelStore, tenant: str) -> None:
    """Everything that can happen to jobs."""
    tag = jobs._store.tag(tenant)
    await jobs.register({"echo": ("default", 3, 60.0)})

    async def submit(**more: Any) -> tuple[str, Any]:
        job_id = new_id("job_")
        static = static_json(tenant, job_id, "echo", "ann", [], "default", TRACE)
        targets = [channels.target(name) for name in ("user:ann", "jobs")]
        facts: dict[str, Any] = {"type": "echo", "owner": "ann", "priority": "default", "static": static, "input": "1"}
        facts |= {"id": job_id, "traceparent": TRACE, "targets": targets, "max_open": 100, "lease_ms": 0}
        outcome = await jobs.submit(tenant, **facts, **more)
        assert outcome.kind == "accepted"
        return job_id, outcome.message

    done, message = await submit(key="k", fingerprint="f")
    await jobs.settle(tenant, "k", b"{}")
    assert (await jobs.due(tag, limit=10, lease=60, publish=True)).messages[0].id == done
    await jobs.queued(message)
    claim = await jobs.claim(message, token="t", lease=10, worker="w")
    assert isinstance(claim, Claim)
    assert not await jobs.heartbeat(tenant, done, claim.fence, 10)
    effects, held = EffectStore(jobs.redis), Holder(tenant, done, claim.fence)
    assert (await effects.begin(held, "mail", "t", again=False)).kind == "ok"
    await effects.end(held, "mail", "t", b"1")
    await jobs.advance(tenant, done, fence=claim.fence, op=1, to="progress", progress='{"done":1}', lease_ms=9000)
    await jobs.advance(tenant, done, fence=claim.fence, op=2, to="succeeded", result="1")
    assert (await jobs.result(tenant, done)) is not None
    restorer = Restorer(jobs._store, channels)
    assert await restorer.restore(await restorer.check(tenant, done)) is None
    refused, _ = await submit()
    assert await jobs.withdraw(tenant, refused, None) is None
    cancelled, _ = await submit()
    assert await jobs.cancel(tenant, cancelled)
    assert await jobs.rerun(tenant, cancelled, lease=5, max_open=100)
    found, _ = await jobs.find(tenant, limit=10)
    assert len(found) == 2
    await jobs.requeue(tag, "default")
    await jobs.recheck(tag, delay=60)
    old = await jobs.outdated(tag, retention=0, limit=10)
    assert old == [(tenant, done)]
    await jobs.purge(tag, old, retention=0)
    assert await jobs.get(tenant, done) is None


async def family_life(jobs: JobStore, channels: ChannelStore, tenant: str) -> None:
    """A job with a step and a child, undone because it is cancelled."""
    await jobs.register({"echo": ("default", 3, 60.0)})
    arguments, sagas = Arguments(channels, Settings()), SagaStore(jobs)
    wanted = Submission(type="echo")
    accepted = await jobs.submit(tenant, **arguments.of(tenant, new_id("job_"), wanted, TRACE, lease=60))
    assert accepted.message is not None
    parent = accepted.message.id
    claim = await jobs.claim(accepted.message, token="t", lease=60, worker="w")
    assert isinstance(claim, Claim)
    holder = Holder.of(tenant, parent, claim)
    for to in ("started", "done"):
        await sagas.step(holder, "a", to, undo="undo-a", result="1")
    child, number = await sagas.spawn(holder, "c", arguments.child(tenant, new_id("job_"), wanted, TRACE, parent))
    waiting = {"children": [number], "gather": 1, "fail_fast": False, "wait_ms": 60_000}
    assert (await sagas.children(holder, [number], 1))[1][0].id == child
    assert (await jobs.advance(tenant, parent, fence=claim.fence, op=1, to="waiting", **waiting))[1] == "waiting"
    assert await jobs.cancel(tenant, parent)
    due = await jobs.due(jobs._store.tag(tenant), limit=10, lease=60, publish=True)
    (message,) = (message for message in due.messages if message.id == parent)
    claim = await jobs.claim(message, token="t", lease=60, worker="w")
    assert isinstance(claim, Claim)
    assert claim.turned
    assert (await sagas.steps(tenant, parent))[1][0].status == "done"
    for to in ("undoing", "undone"):
        await sagas.step(Holder.of(tenant, parent, claim), "a", to)
    await jobs.advance(tenant, parent, fence=claim.fence, op=1, to="compensated")
    for job_id in (parent, child):
        job = await jobs.get(tenant, job_id)
        assert job is not None
        assert job.status == "cancelled"


async def control_life(jobs: JobStore, types: TaskTypes, tenant: str) -> None:
    await types.register({"tick": TaskType("default", 3, 60, 1, Schedule(cron="* * * * *", tenant=tenant))})
    assert await types.pause("tick", paused=True)
    assert "tick" in {known.type for known in await types.known()}
    (known,) = await types.schedules(tenant)
    assert (await types.firings(jobs._store.tag(tenant), limit=10)).next_ms > 0
    firing = Firing(known.type, known.schedule, known.next, skip=True)
    assert await types.fired(firing, following=known.next + 1, job_id=None)
    assert not await types.fired(firing, following=known.next + 1, job_id=None)
    assert (await jobs.pressure(tenant, pool="default", priority="bulk")).ended == 0


async def dead_letter_life(store: Store, jobs: JobStore, channels: ChannelStore, tenant: str) -> None:
    """Everything that can happen to dead letters."""
    dead, messages = DeadLetters(store, None, Settings()), DeadLetterStore(store, Settings())
    raw = await messages.bury(tenant, "undecodable", "q", b"x", {})
    groups, _, total = await messages.groups(tenant, limit=9)
    assert (groups[0].sample, total) == (raw, 1)
    assert (await dead.find(tenant, Filter(), limit=9)).total == 1
    assert await dead.show(tenant, raw)
    assert await dead.discard(tenant, [raw]) == 1
    assert await messages.prune(store.tag(tenant)) == 0
    job_id = new_id("job_")
    static = static_json(tenant, job_id, "echo", "ann", [], "default", TRACE)
    facts: dict[str, Any] = {"type": "echo", "owner": "ann", "priority": "default", "static": static, "input": "1"}
    targets = [channels.target("jobs")]
    outcome = await jobs.submit(
        tenant, id=job_id, traceparent=TRACE, targets=targets, max_open=100, lease_ms=60_000, **facts
    )
    assert outcome.message is not None
    undertaker = Undertaker(store, LocalQueue(), messages, Rebuilder(jobs, channels, Settings()))
    letter = Letter(encode(outcome.message), "no", refused=True, source="q")
    assert await undertaker._record(letter) == "failed"
    assert (await dead.discard_many(tenant, Filter(), limit=9)).done == 1


async def keys_and_revocations(store: Store, tenant: str) -> None:
    keys, revocations = KeyStore(store, Settings()), Revocations(store)
    key, _ = await keys.create(tenant, "ci", ["jobs:write"])
    await keys.revoke(tenant, key.id)
    await revocations.revoke(tenant, "u", "ann")
    assert await revocations.revoked(Credential(tenant=tenant, subject="ann", kind="token"))


async def breaker_life(breakers: Breakers, name: str) -> None:
    for dependency in (f"{name}{number}" for number in range(9)):  # each has a slot of its own
        rules = Rules(failures=1)
        passage = await breakers.admit(dependency, rules, "token")
        assert await breakers.report(dependency, rules, passage.generation, "failed") == "open"


async def foreign_life(store: Store, tenant: str) -> None:
    jobs = ForeignJobs(store, Settings(), "celery", 60)
    born = Birth("t1", "shop.add", None, (), "{}", 4, TRACE)
    [job] = await jobs.named([(f"task of {tenant}", Named(tenant, new_id("job_")))])
    assert job is not None
    assert await jobs.observe(tenant, [Seen(job.job_id, ForeignChange("running"), born)]) == ["running"]
    assert await jobs.revocations() == []


async def presence_life(presence: PresenceStore, tenant: str) -> None:
    shard, lease = presence.tag(tenant), Lease("node", hidden=False)
    assert (await presence.begin(shard, "node", 60)).held
    assert (await presence.show(shard, "node", 60, None)).held
    joins = Change(tenant, "open:a", stored=True, told=True, joined=True, client="c", user="ann", info="{}")
    assert await presence.write(shard, lease, [joins])
    present = await presence.read(tenant, "open:a", limit=10, size=1000)
    assert (present.clients, present.users, present.members) == (1, 1, {"c": b"{}"})


@pytest.mark.parametrize("tenant", TENANTS)
async def test_every_script_works_on_every_master(store: Watched, channels: ChannelStore, tenant: str) -> None:
    assert at_home(store, tenant) == TENANTS.index(tenant)
    await job_life(JobStore(store), channels, tenant)
    await family_life(JobStore(store), channels, tenant)
    await control_life(JobStore(store), TaskTypes(store), tenant)
    await dead_letter_life(store, JobStore(store), channels, tenant)
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
    await foreign_life(store, tenant)
    await keys_and_revocations(store, tenant)
    await presence_life(PresenceStore(store), tenant)
    await Rates(store, 100, 10).spend(tenant)
    assert (await Locks(store).take(tenant, "l", "owner", 60)).fence
    await breaker_life(Breakers(store), tenant)
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
