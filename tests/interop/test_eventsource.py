"""npm `eventsource` with a ticket: what it does by itself when its connection is cut."""

from __future__ import annotations

import pytest

from tests.e2e.clients import token
from tests.e2e.test_one_job_live import log_of
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
