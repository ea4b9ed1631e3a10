"""What other people's clients do when their token is revoked or ends: get a new one, or stop."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from centrifuge import Client, ClientEventHandler
from redis.asyncio import Redis

from gateway.fanout.options import HubOptions
from tests.fanout.support import Node, publish, settings_for
from tests.fanout.support import node as fanout_node
from tests.fanout.support import token as fanout_token
from tests.interop.conftest import RunProgram
from tests.support.waiting import eventually

pytestmark = pytest.mark.interop

CHANNEL = "user:ann"
GRACE = HubOptions(ping=1, grace=2.0, drain=0.1)


@pytest.fixture
async def gateway(redis_url: str, redis: Redis) -> AsyncIterator[Node]:
    del redis  # emptied
    async with fanout_node(settings_for(redis_url), GRACE) as running:
        yield running


def made_before(**claims: Any) -> str:
    return fanout_token("ann", iat=time.time() - 1, **claims)


def made_later() -> str:
    return fanout_token("ann", iat=time.time() + 60)


async def test_javascript_gets_a_new_token(gateway: Node, node: RunProgram) -> None:
    program = await node("follow", endpoint=gateway.ws, token=made_before(), fresh=made_later(), channel=CHANNEL)
    await program.until("subscribed")
    await gateway.app.state.revocations.revoke("default", "u", "ann")
    await program.until("token asked")
    assert (await program.until("subscribed"))["recovered"] is False  # and it is told: 3014 ends what it knew
    await publish(gateway.channels, CHANNEL, type_="job.succeeded")
    await program.finish()
    assert [(line["code"], line["reason"]) for line in program.said("connecting")][1] == (3014, "token revoked")
    assert program.said("disconnected") == []
    assert len(program.said("publication")) == 1


async def test_javascript_without_a_new_token_stops(gateway: Node, node: RunProgram) -> None:
    program = await node("follow", endpoint=gateway.ws, token=made_before(), channel=CHANNEL)
    await program.until("subscribed")
    await gateway.app.state.revocations.revoke("default", "u", "ann")
    assert (await program.until("disconnected"))["reason"] == "unauthorized"
    await program.finish()


async def test_javascript_ignores_the_warning_and_refreshes_by_itself(gateway: Node, node: RunProgram) -> None:
    brief = fanout_token("ann", ttl=2)
    program = await node("follow", endpoint=gateway.ws, token=brief, fresh=made_later(), channel=CHANNEL)
    await program.until("token asked")
    (connection,) = gateway.hub.connections
    await eventually(lambda: connection.expires > gateway.hub.loop.time() + 60)  # type: ignore[attr-defined] # a Session
    await publish(gateway.channels, CHANNEL, type_="job.succeeded")
    await program.finish()
    assert len(program.said("connected")) == 1
    assert program.said("error") == program.said("disconnected") == []


class Events(ClientEventHandler):  # type: ignore[misc] # the library has no types
    """Keeps what the client is told."""

    def __init__(self) -> None:
        self.connecting: list[int] = []
        self.disconnected: list[str] = []
        self.connected = 0

    async def on_connecting(self, ctx: Any) -> None:
        self.connecting.append(ctx.code)

    async def on_connected(self, _ctx: Any) -> None:
        self.connected += 1

    async def on_disconnected(self, ctx: Any) -> None:
        self.disconnected.append(ctx.reason)


@pytest.mark.parametrize("replaced", [True, False])
async def test_python_gets_a_new_token_or_stops(gateway: Node, replaced: bool) -> None:  # noqa: FBT001 - a case
    async def fresh() -> str:
        return made_later()

    events = Events()
    client = Client(
        gateway.ws,
        token=made_before(),
        get_token=fresh if replaced else None,
        events=events,
        use_protobuf=False,
        proxy=None,
        min_reconnect_delay=0.05,
    )
    await client.connect()
    await eventually(lambda: events.connected)
    await gateway.app.state.revocations.revoke("default", "u", "ann")
    if replaced:
        await eventually(lambda: events.connected > 1)
        assert 3014 in events.connecting
        await client.disconnect()
    else:
        await eventually(lambda: events.disconnected == ["unauthorized"])
