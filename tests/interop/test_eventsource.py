"""npm `eventsource` with a ticket: what it does by itself when its connection is cut."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from gateway.fanout.stats import gauges
from tests.e2e.clients import token
from tests.e2e.test_one_job_live import log_of
from tests.fanout.support import node as fanout_node
from tests.fanout.support import publish, settings_for, ws
from tests.fanout.support import token as fanout_token
from tests.interop.conftest import RunProgram
from tests.interop.support import LIMIT, Line, Pair, check_whole_life, in_the_middle, new_ticket, submit_slow
from tests.support.waiting import eventually

pytestmark = pytest.mark.interop


def middle_line(line: Line) -> bool:
    return in_the_middle(line["data"])


async def started(url: str, job_id: str) -> bool:
    return len(await log_of(url, job_id)) > 3


async def test_it_goes_on_with_the_ticket_where_it_was_cut(pair: Pair, node: RunProgram) -> None:
    path = f"{await new_ticket(pair.second_url, 'ann')}&channel=user:ann"
    program = await node("eventsource", url=pair.url + path)
    await program.until("open")
    job_id = await submit_slow(pair.second_url)
    await program.until("event", middle_line)
    pair.front.lead_to(pair.second_url)
    pair.front.drop()
    await program.finish()
    events = program.said("event")
    await check_whole_life(pair.second_url, job_id, [line["data"] for line in events])
    assert all(line["type"] == line["data"]["type"] for line in events)
    assert len({line["id"] for line in events}) == len(events)
    assert [line["closed"] for line in program.said("error")] == [False]
    assert len(program.said("open")) == 2
    assert {line["say"] for line in program.lines} == {"open", "event", "error"}  # no reset, nothing unnamed


async def test_a_used_ticket_opens_nothing_afresh(pair: Pair, node: RunProgram) -> None:
    path = f"{await new_ticket(pair.first_url, 'ann')}&channel=user:ann"
    first = await node("eventsource", url=pair.url + path)
    await first.until("open")
    second = await node("eventsource", url=pair.second_url + path)
    error = await second.until("error")
    assert (error["code"], error["closed"]) == (401, True)
    assert second.said("open") == []


@pytest.mark.parametrize("credential", ["ticket", "token"])
async def test_it_is_cut_before_the_first_event(pair: Pair, node: RunProgram, credential: str) -> None:
    by_token = f"/v1/stream?token={token('ann')}"
    path = by_token if credential == "token" else await new_ticket(pair.first_url, "ann")
    program = await node("eventsource", url=f"{pair.url}{path}&channel=user:ann", watched=True)
    await program.until("bytes")
    pair.front.cut()
    await program.until("error")
    await eventually(lambda: pair.front.connections == 0)
    job_id = await submit_slow(pair.second_url)
    await eventually(lambda: started(pair.second_url, job_id), LIMIT)
    pair.front.resume()
    await program.finish()
    await check_whole_life(pair.second_url, job_id, [line["data"] for line in program.said("event")])


async def test_it_comes_back_from_a_bye_and_stops_for_good_at_a_204(
    redis_url: str, redis: Redis, node: RunProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    del redis  # emptied
    async with fanout_node(settings_for(redis_url, max_connections=1)) as gateway:
        url = f"http://127.0.0.1:{gateway.port}/v1/stream?channel=job:mine&token={fanout_token('ann')}"
        async with ws(gateway):
            program = await node("eventsource", url=url)
            for _ in range(2):
                assert (await program.until("gateway.bye"))["data"] == {"reason": "overload"}
        await eventually(lambda: gauges(gateway.hub)["streams"] == 1)
        await publish(gateway.channels, "job:mine", type_="job.queued")
        await program.until("event")
        monkeypatch.setattr(gateway.hub, "job_state", over_long_ago)
        (stream,) = gateway.hub.connections
        stream.abort()
        stopped = await program.until("error", lambda line: line["closed"])
        assert stopped["code"] == 204
        await program.finish()


async def over_long_ago(_tenant: str, _job_id: str) -> bytes:
    return b'{"id":"x","type":"job.cancelled","time":"2020-01-01T00:00:00.000Z","data":{}}'
