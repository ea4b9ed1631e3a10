"""A token ends while it is in use: the client is warned, closed, and resumes with a new one."""

from __future__ import annotations

import asyncio

from gateway.auth.principals import Capability
from gateway.fanout.options import HubOptions
from tests.fanout.conftest import StartNode
from tests.fanout.endings import closed, goodbye, signed_in
from tests.fanout.support import publish, sse, token
from tests.support.waiting import eventually

NEWS = (Capability(channels=("news",), allow=("sub",)),)


async def test_an_expired_connection_is_warned_then_closed_and_resumes(start: StartNode) -> None:
    node = await start(options=HubOptions(ping=5, connect=0.3, grace=1.0, probe=0.5))
    async with signed_in(node, token("ann", ttl=1)) as client:
        position = (await client.subscribe("open:1", recoverable=True))["subscribe"]
        push = (await client.next())["push"]
        assert push["refresh"] == {"expires": True, "ttl": 1}
        assert (await closed(client)) == (3005, "connection expired")
    await publish(node.channels, "open:1", data="missed")
    async with signed_in(node, token("ann")) as client:
        again = await client.subscribe(
            "open:1", recover=True, epoch=position["epoch"], offset=position.get("offset", 0)
        )
        assert again["subscribe"]["recovered"]
        # It comes with the reply, or, had it not arrived yet at the node, right behind it.
        missed = again["subscribe"].get("publications") or await client.pubs(1)
        assert [pub["data"]["data"] for pub in missed] == ["missed"]


async def test_a_client_that_refreshes_after_the_warning_stays(start: StartNode) -> None:
    node = await start(options=HubOptions(ping=5, connect=0.3, grace=1.0))
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with signed_in(node, token("ann", ttl=1)) as client:
        assert "refresh" in (await client.next())["push"]
        assert (await client.ask(refresh={"token": token("ann")}))["refresh"]["ttl"] > 3000
        await eventually(lambda: loop.time() > began + 2.5)  # past the end of the grace
        assert "error" not in await client.ask(ping={})


async def test_an_expired_stream_says_goodbye_and_resumes_with_a_new_ticket(start: StartNode) -> None:
    node = await start()
    tickets, authenticator = node.app.state.tickets, node.app.state.authenticator

    async def ticket(ttl: float) -> str:
        made = await tickets.issue(await authenticator.verify(token("ann", ttl=ttl, caps=NEWS)))
        return str(made.ticket)

    old = await ticket(1.0)
    async with sse(node.port, f"channel=news&ticket={old}") as stream:
        await stream.block()
        await publish(node.channels, "news", data=1)
        assert await stream.datas(1) == [1]
        cursor = stream.last_id
        assert await goodbye(stream) == "expired"
    await publish(node.channels, "news", data=2)
    async with sse(node.port, f"channel=news&ticket={old}&last_event_id={cursor}") as stream:
        assert stream.status == 401  # EventSource stops by itself; the page makes a new ticket
    async with sse(node.port, f"channel=news&ticket={await ticket(60)}&last_event_id={cursor}") as stream:
        assert await stream.datas(1) == [2]
