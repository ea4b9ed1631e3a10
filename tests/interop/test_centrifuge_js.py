"""npm `centrifuge`, as browsers and Node applications use it."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from gateway.fanout.options import HubOptions
from tests.e2e.clients import token
from tests.e2e.stack import client
from tests.e2e.test_one_job_live import log_of, submit
from tests.fanout.support import node as fanout_node
from tests.fanout.support import settings_for
from tests.fanout.support import token as fanout_token
from tests.interop.conftest import RunProgram
from tests.interop.support import Line, Pair, Program, check_whole_life, in_the_middle, submit_slow

pytestmark = pytest.mark.interop

CHANNEL = "user:ann"
QUICK_ECHO = {"type": "echo", "input": {"value": 1}, "owner": "ann"}


def middle_line(line: Line) -> bool:
    return in_the_middle(line["data"])


@pytest.mark.parametrize("way", ["kill", "stop"])
async def test_a_gateway_goes_away_in_the_middle_of_a_job(pair: Pair, node: RunProgram, way: str) -> None:
    program = await node("follow", endpoint=pair.websocket, token=token("ann"), channel=CHANNEL)
    await program.until("subscribed")
    job_id = await submit_slow(pair.second_url)
    await program.until("publication", middle_line)
    pair.front.lead_to(pair.second_url)
    await asyncio.to_thread(getattr(pair.first, way))
    await program.finish()
    publications = program.said("publication")
    await check_whole_life(pair.second_url, job_id, [line["data"] for line in publications])
    offsets = [line["offset"] for line in publications]
    assert offsets == list(range(1, len(offsets) + 1))
    first, second = program.said("subscribed")
    assert (first["wasRecovering"], first["recovered"], first["recoverable"]) == (False, False, True)
    assert (second["wasRecovering"], second["recovered"], second["recoverable"]) == (True, True, True)
    assert second["position"]["epoch"] == first["position"]["epoch"]
    assert len(program.said("connected")) == 2
    assert program.said("disconnected") == []
    reconnect = program.said("connecting")[1]
    assert reconnect["code"] == (3001 if way == "stop" else 1)  # 1: transport closed


async def test_an_expired_token_is_replaced(pair: Pair, node: RunProgram) -> None:
    expired, fresh = token("ann", ttl=-60), token("ann")
    program = await node("follow", endpoint=pair.websocket, token=expired, fresh=fresh, channel=CHANNEL)
    await program.until("subscribed")
    job_id = await submit(pair.second_url, QUICK_ECHO)
    lines = await program.finish()
    assert len(program.said("token asked")) == 1
    assert [line["code"] for line in program.said("error")] == [109]
    assert program.said("disconnected") == []
    ids = [line["data"]["id"] for line in lines if line["say"] == "publication"]
    assert ids == [event["id"] for event in await log_of(pair.second_url, job_id)]


async def test_a_token_that_expires_is_refreshed_on_the_open_connection(pair: Pair, node: RunProgram) -> None:
    brief, fresh = token("ann", ttl=4), token("ann")
    program = await node("follow", endpoint=pair.websocket, token=brief, fresh=fresh, channel=CHANNEL)
    await program.until("subscribed")
    await program.until("token asked")
    job_id = await submit_slow(pair.second_url)
    await program.finish()
    happened = [line["say"] for line in program.lines if line["say"] != "publication"]
    assert happened == ["subscribing", "connecting", "connected", "subscribed", "token asked"]
    await check_whole_life(pair.second_url, job_id, [line["data"] for line in program.said("publication")])


async def test_an_invalid_token_ends_it(pair: Pair, node: RunProgram) -> None:
    forged = token("ann", secret="another-secret-another-secret-another")
    program = await node("follow", endpoint=pair.websocket, token=forged, channel=CHANNEL)
    assert (await program.until("disconnected"))["code"] == 3500
    await program.finish()
    assert program.said("connected") == []


async def test_calls(pair: Pair, node: RunProgram) -> None:
    async with client(pair.first_url) as http:
        done = await http.post("/v1/jobs", json=QUICK_ECHO, headers={"Prefer": "wait=20"})
        assert done.json()["status"] == "succeeded", done.text
    said = {"text": "grüße\n", "empty": [], "big": 2**53, "float": 1.0}
    task = {"own": CHANNEL, "foreign": "user:bob", "chat": "chat:lobby", "said": said}
    program = await node("calls", endpoint=pair.websocket, token=token("ann", info={"name": "Ann"}), **task)
    await program.finish()
    answers = {line["to"]: line["value"] for line in program.said("answer")}
    check_history(answers)
    refused = {line["to"]: line["code"] for line in program.said("refused")}
    assert refused.pop("presence") in {103, 108}  # nobody asked for presence on this channel
    assert refused.pop("presence stats") in {103, 108}
    assert refused == {"history lost": 112, "history foreign": 103, "publish": 103, "rpc": 108}
    gone = [(line["channel"], line["code"]) for line in program.said("unsubscribed")]
    assert gone[:2] == [("user:bob", 103), ("chat:lobby", 0)]
    check_chat(program, said)


def check_history(answers: Line) -> None:
    whole = answers["history"]
    types = [pub["data"]["type"] for pub in whole["publications"]]
    assert types == ["job.queued", "job.started", "job.succeeded"]
    assert [pub["offset"] for pub in whole["publications"]] == [1, 2, 3]
    assert answers["history position"] == {**whole, "publications": []}
    assert answers["history since"] == {**whole, "publications": whole["publications"][1:2]}
    assert answers["history reverse"] == {**whole, "publications": whole["publications"][2:]}


def check_chat(program: Program, said: object) -> None:
    """What was said comes back verbatim; what was said while away is recovered."""
    speaker = program.said("connected")[0]["client"]
    heard = [line for line in program.said("publication") if line["channel"] == "chat:lobby"]
    assert [line["data"] for line in heard] == [said, "nobody listens", "back"]
    assert [line["offset"] for line in heard] == [1, 2, 3]
    for line in heard:
        assert line["info"] == {"client": speaker, "user": "ann", "connInfo": {"name": "Ann"}}
    subscribed = [line for line in program.said("subscribed") if line["channel"] == "chat:lobby"]
    assert [line["recovered"] for line in subscribed] == [False, True]


async def test_a_page_with_a_cookie_stays_connected_past_the_end_of_it(
    redis_url: str, redis: Redis, node: RunProgram
) -> None:
    del redis  # emptied
    settings = settings_for(redis_url, cookie="session")
    async with fanout_node(settings, HubOptions(connect=0.2, drain=0.1)) as gateway:
        origin = f"http://127.0.0.1:{gateway.port}"
        cookies = [fanout_token("ann", ttl=4), fanout_token("ann", ttl=-1), fanout_token("ann")]
        program = await node("cookies", endpoint=gateway.ws, origin=origin, cookies=cookies)
        await program.finish()
    assert [line["cookie"] for line in program.said("handshake")] == cookies
    happened = [line["say"] for line in program.lines if line["say"] not in {"handshake", "error"}]
    assert happened == ["connecting", "connected", "connecting", "connected"]
    assert [line["type"] for line in program.said("error")] == ["connect"]  # the one with the expired cookie
    assert program.said("connecting")[1]["code"] == 3005


async def test_pings_are_answered(redis_url: str, redis: Redis, node: RunProgram) -> None:
    del redis  # emptied
    # No setting makes pings quicker, so this one gateway runs in the test's own process.
    async with fanout_node(settings_for(redis_url), HubOptions(ping=1, drain=0.1)) as gateway:
        program = await node("pings", endpoint=gateway.ws, token=fanout_token("ann"), channel=CHANNEL, pongs=3)
        await program.finish()
    assert [(line["ping"], line["pong"]) for line in program.said("connect")] == [(1, True)]
    assert [line["say"] for line in program.lines if line["say"] in {"ping", "pong"}] == ["ping", "pong"] * 3
    assert len(program.said("connecting")) == 1
