"""PyPI `httpx-sse` with a ticket: reconnecting by hand, honestly and otherwise."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent, aconnect_sse

from tests.e2e.clients import Event, Stop
from tests.e2e.test_one_job_live import ended
from tests.interop.support import LIMIT, Pair, check_whole_life, in_the_middle, new_ticket, submit_slow

pytestmark = pytest.mark.interop


@asynccontextmanager
async def opened(url: str, cursor: str = "") -> AsyncIterator[EventSource]:
    """Open a stream, with the cursor a client got last."""
    headers = {"Last-Event-ID": cursor} if cursor else {}
    async with (
        asyncio.timeout(LIMIT),
        httpx.AsyncClient(timeout=LIMIT) as client,
        aconnect_sse(client, "GET", url, headers=headers) as source,
    ):
        yield source


async def read(blocks: AsyncIterator[ServerSentEvent], stop: Stop) -> tuple[list[Event], str]:
    """Read up to the event; returns the events, and the cursor to go on from."""
    events: list[Event] = []
    async for block in blocks:
        assert block.event not in {"gateway.reset", "gateway.bye"}, block
        if block.data and not block.event.startswith("gateway."):
            events.append(json.loads(block.data))
            assert block.event == events[-1]["type"]
            if stop(events[-1]):
                return events, block.id
    raise AssertionError(f"the stream ended after {[event['type'] for event in events]}")


async def status(url: str, cursor: str = "") -> int:
    """Return what an attempt to open is answered with."""
    async with opened(url, cursor) as source:
        return source.response.status_code


async def test_it_goes_on_at_the_other_gateway(pair: Pair) -> None:
    path = f"{await new_ticket(pair.first_url, 'ann')}&channel=user:ann"
    async with opened(pair.first_url + path) as source:
        blocks = source.aiter_sse()
        opening = await anext(blocks)
        assert opening.id
        assert opening.retry
        job_id = await submit_slow(pair.second_url)
        before, cursor = await read(blocks, in_the_middle)
    async with opened(pair.second_url + path, cursor) as source:
        after, _ = await read(source.aiter_sse(), ended)
    await check_whole_life(pair.first_url, job_id, before + after)
    async with opened(pair.second_url + path, opening.id) as source:
        again, _ = await read(source.aiter_sse(), ended)
    assert again == before + after  # an older cursor of the same ticket is as good


async def first_cursor(url: str) -> str:
    async with opened(url) as source:
        return (await anext(source.aiter_sse())).id


async def test_a_cursor_is_good_for_its_own_ticket_only(pair: Pair) -> None:
    path, other = [f"{await new_ticket(pair.first_url, who)}&channel=user:{who}" for who in ("ann", "bob")]
    own, foreign = await first_cursor(pair.first_url + path), await first_cursor(pair.second_url + other)
    generation, sequence, mac = own.split(".")
    assert foreign.split(".")[:2] == [generation, sequence]  # the same position, signed for another
    forged = {
        "none": "",
        "not a cursor": "nonsense",
        "unsigned": f"{generation}.{sequence}",
        "another position": f"{generation}.zz.{mac}",
        "another generation": f"0{generation}.{sequence}.{mac}",
        "a changed signature": f"{generation}.{sequence}.{mac[:-1]}{'A' if mac[-1] != 'A' else 'B'}",
        "another's": foreign,
    }
    for url in (pair.first_url, pair.second_url):
        assert {name: await status(url + path, cursor) for name, cursor in forged.items()} == dict.fromkeys(forged, 401)
        assert await status(url + path, own) == 200


async def test_a_ticket_grants_what_its_owner_may_see(pair: Pair) -> None:
    ticket = await new_ticket(pair.first_url, "ann")
    assert await status(f"{pair.first_url}{ticket}&channel=user:bob") == 403
    assert await status(f"{pair.first_url}/v1/stream?ticket=unknown&channel=user:ann") == 401
