"""What each kind of thing lives through on one shard: every script of the gateway, in a life that it is part of."""

from __future__ import annotations

import msgspec

from gateway.auth.keys import KeyStore
from gateway.auth.principals import Credential
from gateway.auth.revocation import Revocations
from gateway.events import new_id
from gateway.jobs.arguments import Arguments
from gateway.jobs.cron import Schedule
from gateway.jobs.dead_filter import Filter
from gateway.jobs.deadletters import DeadLetters
from gateway.jobs.effects import EffectStore
from gateway.jobs.foreign import Birth, ForeignJobs, Named, Seen
from gateway.jobs.foreign import Change as ForeignChange
from gateway.jobs.local import LocalQueue
from gateway.jobs.queue import Letter, Message, encode
from gateway.jobs.rebuild import Rebuilder
from gateway.jobs.records import Claim, Holder
from gateway.jobs.restore import Restorer
from gateway.jobs.sagas import SagaStore
from gateway.jobs.store import JobStore
from gateway.jobs.submission import Submission
from gateway.jobs.task_types import Firing, TaskType, TaskTypes
from gateway.jobs.undertaker import Undertaker
from gateway.settings import Settings
from gateway.store.breakers import Breakers, Rules
from gateway.store.channels import ChannelStore
from gateway.store.deadletters import DeadLetterStore
from gateway.store.presence import Change, Lease, PresenceStore
from gateway.store.redis import Store
from tests.support.messages import TRACE


async def submitted(jobs: JobStore, channels: ChannelStore, tenant: str, *, lease: float, **key: str) -> Message:
    """The message of a new job of ann's."""
    wanted = Submission(type="echo", owner="ann", input=msgspec.Raw(b"1"))
    arguments = Arguments(channels, Settings()).of(tenant, new_id("job_"), wanted, TRACE, lease=lease)
    outcome = await jobs.submit(tenant, **arguments, **key)
    assert outcome.kind == "accepted"
    assert outcome.message is not None
    return outcome.message


async def job_life(jobs: JobStore, channels: ChannelStore, tenant: str) -> None:
    """Everything that can happen to jobs."""
    tag = jobs._store.tag(tenant)
    await jobs.register({"echo": ("default", 3, 60.0)})
    message = await submitted(jobs, channels, tenant, lease=0, key="k", fingerprint="f")
    done = message.id
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
    refused = (await submitted(jobs, channels, tenant, lease=0)).id
    assert await jobs.withdraw(tenant, refused, None) is None
    cancelled = (await submitted(jobs, channels, tenant, lease=0)).id
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
    accepted = await submitted(jobs, channels, tenant, lease=60)
    parent = accepted.id
    claim = await jobs.claim(accepted, token="t", lease=60, worker="w")
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
    undertaker = Undertaker(store, LocalQueue(), messages, Rebuilder(jobs, channels, Settings()))
    letter = Letter(encode(await submitted(jobs, channels, tenant, lease=60)), "no", refused=True, source="q")
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
