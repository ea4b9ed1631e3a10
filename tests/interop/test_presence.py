"""Presence, joins, leaves and calls with other people's clients."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from centrifuge import Client, JoinContext, LeaveContext, SubscriptionEventHandler
from redis.asyncio import Redis

from gateway.settings import ChannelRules, Settings
from tests.e2e.clients import token
from tests.e2e.stack import ROOT_KEY
from tests.e2e.test_one_job_live import submit
from tests.fanout.support import node as fanout_node
from tests.fanout.support import settings_for
from tests.fanout.support import token as fanout_token
from tests.interop.conftest import RunProgram
from tests.interop.support import LIMIT, Pair, websocket
from tests.support.waiting import eventually

pytestmark = pytest.mark.interop


class Watcher(SubscriptionEventHandler):  # type: ignore[misc] # the library has no types
    """Keeps who came and went."""

    def __init__(self) -> None:
        self.moves: list[tuple[str, str]] = []

    async def on_join(self, ctx: JoinContext) -> None:
        self.moves.append(("join", ctx.info.user))

    async def on_leave(self, ctx: LeaveContext) -> None:
        self.moves.append(("leave", ctx.info.user))


async def visit(endpoint: str, token: str, channel: str) -> Any:
    """Subscribe with the Python client."""
    client = Client(endpoint, token=token, use_protobuf=False, proxy=None)
    subscription = client.new_subscription(channel, events=Watcher())
    await client.connect()
    await subscription.subscribe()
    await subscription.ready(LIMIT)
    return client


async def test_the_javascript_client_sees_who_comes_and_goes(pair: Pair, node: RunProgram) -> None:
    job = await submit(pair.first_url, {"type": "echo", "input": {"value": 1}, "owner": "ann"})
    foreign = await submit(pair.first_url, {"type": "echo", "input": {"value": 1}, "owner": "bob"})
    task = {"room": "room:lobby", "job": job, "foreign": foreign}
    program = await node("presence", endpoint=pair.websocket, token=token("ann", info={"name": "Ann"}), **task)
    await program.until("subscribed")
    own = program.said("connected")[0]["client"]
    visitor = await visit(websocket(pair.second_url), token("bob"), "room:lobby")
    await program.until("join", lambda line: line["user"] == "bob")
    await visitor.disconnect()
    await program.finish()
    moves = [(line["say"], line["user"]) for line in program.lines if line["say"] in {"join", "leave"}]
    assert moves == [("join", "ann"), ("join", "bob"), ("leave", "bob")]
    answers = {line["to"]: line["value"] for line in program.said("answer")}
    (me,) = answers["presence"]["clients"].values()
    assert (me["client"], me["user"], me["connInfo"]) == (own, "ann", {"name": "Ann"})
    assert answers["stats"] == {"numClients": 1, "numUsers": 1}
    assert answers["get"]["data"]["id"] == job
    assert answers["get"]["data"]["input"] == {"value": 1}
    refused = {line["to"]: (line["code"], line["message"]) for line in program.said("refused")}
    assert refused["foreign"] == (404, "there is no such job")
    assert refused["submit"] == (103, "This needs an API key with the scope jobs:write")
    assert refused["wrong"][0] == 107
    assert "/id" in refused["wrong"][1]
    assert refused["unknown"] == (108, "not available")


async def test_the_members_of_a_killed_process_vanish_without_leaving(pair: Pair) -> None:
    client = Client(websocket(pair.second_url), token=token("ann"), use_protobuf=False, proxy=None)
    watcher = Watcher()
    subscription = client.new_subscription("room:lobby", events=watcher, join_leave=True)
    await client.connect()
    await subscription.subscribe()
    await subscription.ready(LIMIT)
    visitors = [await visit(websocket(pair.first_url), token("bob"), "room:lobby") for _ in range(3)]
    joins = [("join", user) for user in ("ann", "bob", "bob", "bob")]
    await eventually(lambda: sorted(watcher.moves) == joins)
    pair.first.kill()

    async def alone() -> bool:
        return bool((await subscription.presence_stats()).num_clients == 1)

    await eventually(alone, 20)
    assert sorted(watcher.moves) == joins
    for each in (client, *visitors):
        await each.disconnect()


async def test_jobs_by_call(pair: Pair, node: RunProgram) -> None:
    program = await node("jobs", endpoint=pair.websocket, token=ROOT_KEY)
    await program.finish()
    (submitted,) = program.said("submitted")
    assert submitted["again"] == submitted["id"]
    (job,) = program.said("job")
    assert (job["id"], job["status"], job["input"]) == (submitted["id"], "succeeded", {"value": [1]})
    assert program.said("cancelled")[0]["status"] == "cancelled"
    conflict, unknown = program.said("refused")
    assert conflict["code"] == 409
    assert unknown["code"] == 107
    assert "/type no worker has registered 'nobody.knows'" in unknown["message"]


async def test_the_python_client_sees_who_comes_and_goes(redis_url: str, redis: Redis) -> None:
    del redis  # emptied
    rules = {"hall": ChannelRules(subscribe="authenticated", presence=True, join_leave=True)}
    settings: Settings = settings_for(redis_url, channels=rules)
    async with fanout_node(settings) as first, fanout_node(settings) as second:
        client = Client(first.ws, token=fanout_token("ann"), use_protobuf=False, proxy=None)
        watcher = Watcher()
        subscription = client.new_subscription("hall:a", events=watcher, join_leave=True)
        await client.connect()
        await subscription.subscribe()
        await subscription.ready(LIMIT)
        await eventually(lambda: watcher.moves == [("join", "ann")])
        visitors = await asyncio.gather(*(visit(second.ws, fanout_token("bob"), "hall:a") for _ in range(2)))
        await eventually(lambda: watcher.moves == [("join", "ann"), ("join", "bob"), ("join", "bob")])
        stats = await subscription.presence_stats()
        assert (stats.num_clients, stats.num_users) == (3, 2)
        present = await subscription.presence()
        assert sorted(info.user for info in present.clients.values()) == ["ann", "bob", "bob"]
        await asyncio.gather(*(visitor.disconnect() for visitor in visitors))
        await eventually(lambda: watcher.moves[3:] == [("leave", "bob"), ("leave", "bob")])
        await client.disconnect()
