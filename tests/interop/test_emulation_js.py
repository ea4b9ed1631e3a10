"""npm `centrifuge` where WebSockets do not get through, and its commands land on the other node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.e2e.clients import token
from tests.e2e.stack import client
from tests.interop.conftest import RunProgram
from tests.interop.support import Line, Pair, Program

pytestmark = pytest.mark.interop

CHANNEL = "chat:lobby"
SAID = ["one", {"text": "grüße\n"}, [2**53]]


async def say(url: str, *texts: str) -> None:
    async with client(url) as http:
        for text in texts:
            event = {"type": "chat.said", "channels": [CHANNEL], "data": text}
            assert (await http.post("/v1/events", json=event)).status_code == 202


def heard(program: Program) -> list[object]:
    datas = [line["data"] for line in program.said("publication")]
    return [data["data"] if isinstance(data, dict) and "specversion" in data else data for data in datas]


@pytest.mark.parametrize("transport", ["http_stream", "sse"])
@pytest.mark.parametrize("way", ["kill", "stop"])
async def test_a_client_without_websockets_loses_nothing(
    pair: Pair, node: RunProgram, transport: str, way: str
) -> None:
    task = {
        "endpoint": pair.url,
        "other": pair.second_url,
        "transports": [transport],
        "token": token("ann"),
        "channel": CHANNEL,
        "said": SAID,
    }
    program = await node("emulation", **task)
    await program.until("published", lambda line: line["said"] == SAID[-1])
    assert [line["transport"] for line in program.said("connected")] == [transport]
    await say(pair.second_url, "before")
    await program.until("publication", _is("before"))
    pair.front.lead_to(pair.second_url)
    await asyncio.to_thread(getattr(pair.first, way))
    await say(pair.second_url, "meanwhile", "and again")
    await program.until("subscribed")
    await say(pair.second_url, "end")
    await program.finish()
    assert heard(program) == [*SAID, "before", "meanwhile", "and again", "end"]
    offsets = [line["offset"] for line in program.said("publication")]
    assert offsets == list(range(1, len(offsets) + 1))
    assert [line["recovered"] for line in program.said("subscribed")] == [False, True]
    assert program.said("disconnected") == []
    assert program.said("connecting")[1]["code"] == (3001 if way == "stop" else 1)  # 1: transport closed


async def test_a_client_falls_back_to_the_transport_that_works(pair: Pair, node: RunProgram) -> None:
    task = {
        "endpoint": pair.url,
        "other": pair.second_url,
        "transports": ["websocket", "sse"],
        "token": token("ann"),
        "channel": CHANNEL,
        "said": ["end"],
    }
    program = await node("emulation", **task)
    await program.finish()
    assert [line["transport"] for line in program.said("connected")] == ["sse"]


def _is(text: str) -> Callable[[Line], bool]:
    def same(line: Line) -> bool:
        data = line["data"]
        return bool(isinstance(data, dict) and data.get("data") == text)

    return same
