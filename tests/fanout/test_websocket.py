from __future__ import annotations

import asyncio
import json
import sys

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from gateway.auth.principals import Capability
from gateway.fanout.options import HubOptions
from gateway.settings import Settings
from gateway.store.channels import ChannelStore
from tests.fanout.conftest import StartNode
from tests.fanout.support import WsClient, publish, settings_for, token, ws
from tests.support.waiting import eventually


async def drained(client: WsClient) -> None:
    while True:
        await client.socket.recv()


async def closed(client: WsClient) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as caught:
        await client.pubs(sys.maxsize)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


async def test_a_subscriber_gets_what_is_published_with_offsets(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    async with ws(node) as client:
        reply = (await client.subscribe("open:news"))["subscribe"]
        assert (reply["recoverable"], reply["positioned"], reply.get("offset", 0)) == (True, True, 0)
        for number in range(5):
            await publish(channels, "open:news", data={"n": number})
        pubs = await client.pubs(5)
        assert [pub["offset"] for pub in pubs] == [1, 2, 3, 4, 5]
        assert [pub["data"]["data"]["n"] for pub in pubs] == [0, 1, 2, 3, 4]
        assert pubs[0]["data"]["specversion"] == "1.0"


async def test_connect_says_who_the_client_is_and_how_it_is_pinged(start: StartNode) -> None:
    node = await start()
    async with ws(node, hello=False) as client:
        result = (await client.connect(token=token(ttl=100)))["connect"]
        assert result["client"]
        assert (result["ping"], result["pong"], result["expires"], result["ttl"]) == (25, True, True, 100)
        assert (await client.ask(ping={}))["ping"] == {}


@pytest.mark.parametrize("fresh", [False, True], ids=["from the ring", "from the history"])
async def test_a_reader_that_was_away_recovers(start: StartNode, channels: ChannelStore, fresh: bool) -> None:  # noqa: FBT001 - parametrized
    node = await start()
    async with ws(node) as watcher, ws(node) as client:
        await watcher.subscribe("open:a")
        position = (await client.subscribe("open:a"))["subscribe"]
        for number in range(10):
            await publish(channels, "open:a", data=number)
        await client.pubs(4)
        await client.socket.close()
        other = await start() if fresh else node
        async with ws(other) as back:
            asked = {"recover": True, "epoch": position["epoch"], "offset": 4}
            reply = (await back.subscribe("open:a", **asked))["subscribe"]
            assert (reply["recovered"], reply["was_recovering"], reply["offset"]) == (True, True, 10)
            assert [pub["offset"] for pub in reply["publications"]] == [5, 6, 7, 8, 9, 10]
            await publish(channels, "open:a", data=10)
            assert [pub["offset"] for pub in await back.pubs(1)] == [11]


async def test_a_long_recovery_comes_partly_as_pushes(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    for number in range(850):
        await publish(channels, "open:long", data=number)
    async with ws(node) as client:
        reply = (await client.subscribe("open:long", recover=True, epoch="", offset=0))["subscribe"]
        assert (reply["recovered"], reply["offset"], len(reply["publications"])) == (True, 300, 300)
        await publish(channels, "open:long", data=850)
        assert [pub["offset"] for pub in await client.pubs(551)] == list(range(301, 852))


async def test_frames_stay_small(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    for number in range(12):
        await publish(channels, "open:large", data=str(number) * 100_000)
    async with ws(node) as client:
        reply = (await client.subscribe("open:large", recover=True))["subscribe"]
        rest = await client.pubs(12 - len(reply["publications"]))
        assert [pub["offset"] for pub in [*reply["publications"], *rest]] == list(range(1, 13))
        assert max(len(frame) for frame in client.frames) < 300 * 1024


async def test_what_cannot_be_recovered_is_told(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    for number in range(20):
        await publish(channels, "short:a", data=number)
    async with ws(node) as client:
        refused = await client.subscribe("short:a", recover=True, offset=3, flag=2)
        assert refused["error"]["code"] == 112
        reply = (await client.subscribe("short:a", recover=True, offset=3))["subscribe"]
        assert (reply.get("recovered", False), reply["was_recovering"], reply["offset"]) == (False, True, 20)
        reply = (await client.subscribe("open:b", recover=True, offset=0, epoch="other"))["subscribe"]
        assert not reply.get("recovered", False)
        reply = (await client.subscribe("none:a", recover=True))["subscribe"]
        assert not reply.get("recoverable", False)


async def test_what_a_client_may_not_do(start: StartNode) -> None:
    node = await start(options=HubOptions(subscriptions=2))
    async with ws(node) as client:

        async def code(**command: object) -> int:
            return int((await client.ask(**command))["error"]["code"])

        assert await code(subscribe={"channel": "secret:a"}) == 103
        assert await code(subscribe={"channel": "no spaces"}) == 107
        await client.subscribe("open:a")
        assert await code(subscribe={"channel": "open:a"}) == 105
        assert await code(subscribe={"channel": "open:b", "tf": {"op": "x"}}) == 108
        await client.subscribe("open:b")
        assert await code(subscribe={"channel": "open:c"}) == 106
        assert await code(publish={"channel": "secret:a", "data": 1}) == 103
        assert await code(publish={"channel": "open:a"}) == 107
        assert await code(history={"channel": "secret:a"}) == 103
        assert await code(rpc={"method": "x"}) == 108
        assert await code(teleport={"channel": "open:a"}) == 104
        assert await code(sub_refresh={"channel": "open:z", "token": token("", channel="open:z")}) == 103
        assert await code(presence={"channel": "open:a"}) == 108
        assert (await client.ask(unsubscribe={"channel": "never:subscribed"}))["unsubscribe"] == {}


async def test_an_unsubscribed_channel_is_silent(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    async with ws(node) as client:
        await client.subscribe("open:a")
        await client.subscribe("open:b")
        assert (await client.ask(unsubscribe={"channel": "open:a"}))["unsubscribe"] == {}
        await publish(channels, "open:a", "open:b")
        assert (await client.next())["push"]["channel"] == "open:b"
        await client.subscribe("open:a")
        await publish(channels, "open:a")
        assert (await client.next())["push"]["pub"]["offset"] == 2


async def test_a_client_gets_verbatim_what_another_published(start: StartNode) -> None:
    node = await start()
    async with ws(node, hello=False) as writer, ws(node) as reader:
        hello = await writer.connect(token=token("bob", info=msgspec.Raw(b'{"name":"Bob"}')))
        await reader.subscribe("open:chat")
        said = {"text": "hi", "list": [], "big": 12345678901234567890}
        assert (await writer.ask(publish={"channel": "open:chat", "data": said}))["publish"] == {}
        pub = (await reader.next())["push"]["pub"]
        assert pub["data"] == said
        assert (pub["info"]["user"], pub["info"]["conn_info"]) == ("bob", {"name": "Bob"})
        assert pub["info"]["client"] == hello["connect"]["client"]
        entry = (await reader.ask(history={"channel": "open:chat", "limit": 5}))["history"]
        assert entry["publications"][0]["data"] == said
        stored = await node.channels.history("default", "open:chat", since=None, limit=5)
        event = json.loads(stored.publications[0].event)
        assert (event["type"], event["data"]) == ("channel.message", said)


async def test_history(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    for number in range(10):
        await publish(channels, "short:h", data=number)
    async with ws(node) as client:

        async def offsets(**request: object) -> list[int]:
            result = (await client.ask(history={"channel": "short:h", **request}))["history"]
            assert result["offset"] == 10
            return [pub["offset"] for pub in result["publications"]]

        assert await offsets() == []
        assert await offsets(limit=-1) == [6, 7, 8, 9, 10]
        assert await offsets(limit=2, since={"offset": 6, "epoch": ""}) == [7, 8]
        assert await offsets(limit=2, reverse=True) == [10, 9]
        lost = await client.ask(history={"channel": "short:h", "limit": 2, "since": {"offset": 1, "epoch": ""}})
        assert lost["error"]["code"] == 112


async def test_many_commands_in_one_frame_are_answered_together(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    async with ws(node, hello=False) as client:
        commands = [{"id": 1, "connect": {}}, *({"id": n, "subscribe": {"channel": f"open:{n}"}} for n in range(2, 40))]
        await client.socket.send("\n".join(json.dumps(command) for command in commands))
        replies = [await client.next() for _ in commands]
        assert sorted(reply["id"] for reply in replies) == list(range(1, 40))
        assert all("error" not in reply for reply in replies)
        assert len(client.frames) < 20
        await publish(channels, *(f"open:{n}" for n in range(2, 40)))
        pushed = [await client.next() for _ in range(38)]
        assert {push["push"]["channel"] for push in pushed} == {f"open:{n}" for n in range(2, 40)}


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ('{"id":1,"subscribe":{"channel":"open:a"}}', (3501, "bad request")),
        ('{"id":1,"ping":{}}', (3501, "bad request")),
        ('{"connect":{}}', (3501, "bad request")),
        ("nonsense", (3501, "bad request")),
        ('{"id":1,"connect":{"token":"a.b.c"}}', (3500, "invalid token")),
        (b"bytes", (1003, "text messages only")),
    ],
)
async def test_a_bad_beginning_is_closed(start: StartNode, message: str | bytes, told: tuple[int, str]) -> None:
    node = await start()
    async with ws(node, hello=False) as client:
        await client.socket.send(message)
        assert await closed(client) == told
    await eventually(lambda: not node.hub.connections)


async def test_an_expired_token_is_an_error_and_no_token_is_unauthorized(start: StartNode, redis_url: str) -> None:
    node = await start(settings=settings_for(redis_url, anonymous=False))
    async with ws(node, hello=False) as client:
        assert (await client.connect(token=token(ttl=-5)))["error"]["code"] == 109
        assert (await client.connect())["error"]["code"] == 101
        assert "connect" in await client.connect(token=token())
        await client.send(connect={})
        assert (await closed(client))[0] == 3501


async def test_invalid_utf_8_is_closed(start: StartNode) -> None:
    node = await start()
    async with ws(node) as client:
        await client.socket.send(b"\xff\xfe", text=True)
        assert (await closed(client))[0] == 1007


async def test_who_never_connects_is_stale(start: StartNode) -> None:
    node = await start(options=HubOptions(connect=0.2))
    async with ws(node, hello=False) as client:
        assert await closed(client) == (3502, "stale")


async def test_pings_come_on_a_busy_connection_and_must_be_answered(start: StartNode, channels: ChannelStore) -> None:
    node = await start(options=HubOptions(connect=0.2, ping=0.4))
    async with ws(node, hello=False) as client:
        await client.socket.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"open:a"}}')
        pings = 0
        for _ in range(14):
            await publish(channels, "open:a")
            frame = await client.socket.recv()
            pings += frame == "{}"
            if frame == "{}":
                await client.socket.send("{}")
            await asyncio.sleep(0.1)
        assert pings >= 2
        with pytest.raises(ConnectionClosed) as caught:
            await drained(client)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 3012


async def test_an_expired_connection_may_refresh_for_a_while(start: StartNode) -> None:
    options = HubOptions(connect=0.1, ping=30, grace=0.5)
    node = await start(options=options)
    async with ws(node, hello=False) as client:
        assert (await client.connect(token=token(ttl=1)))["connect"]["ttl"] == 1
        await asyncio.sleep(0.5)
        result = (await client.ask(refresh={"token": token(ttl=2)}))["refresh"]
        assert (result["expires"], result["ttl"]) == (True, 2)
        assert (await client.ask(refresh={"token": token(ttl=-1)}))["error"]["code"] == 109
        assert await closed(client) == (3005, "connection expired")
    async with ws(node, hello=False) as client:
        await client.connect(token=token("ann"))
        await client.send(refresh={"token": token("bob")})
        assert (await closed(client))[0] == 3500


async def test_server_side_subscriptions_recover_with_connect(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    mine = token(channels=("secret:mine", "open:x"))
    async with ws(node, hello=False) as client:
        subs = (await client.connect(token=mine))["connect"]["subs"]
        assert set(subs) == {"secret:mine", "open:x"}
        await publish(channels, "secret:mine", data="live")
        assert (await client.next())["push"]["channel"] == "secret:mine"
    await publish(channels, "secret:mine", data="missed")
    async with ws(node, hello=False) as client:
        asked = {"secret:mine": {"recover": True, "offset": 1, "epoch": subs["secret:mine"]["epoch"]}}
        subs = (await client.connect(token=mine, subs=asked))["connect"]["subs"]
        assert subs["secret:mine"]["recovered"]
        # In the reply, or as a push when the feed has not brought it to the ring yet.
        found = subs["secret:mine"].get("publications") or await client.pubs(1)
        assert [pub["offset"] for pub in found] == [2]


async def test_tokens_grant_channels(start: StartNode) -> None:
    node = await start()
    caps = [Capability(channels=("secret:team-*",), match="wildcard", allow=("sub",))]
    async with ws(node, hello=False) as client:
        await client.connect(token=token("ann", caps=caps))
        assert "subscribe" in await client.subscribe("secret:team-1")
        assert "subscribe" in await client.subscribe("user:ann")
        assert "subscribe" in await client.subscribe("job:mine")
        assert (await client.subscribe("job:other"))["error"]["code"] == 103
        assert (await client.subscribe("user:bob"))["error"]["code"] == 103
        one = token("ann", channel="secret:one", ttl=100)
        assert (await client.subscribe("secret:two", token=one))["error"]["code"] == 103
        result = (await client.subscribe("secret:one", token=one))["subscribe"]
        assert (result["expires"], result["ttl"]) == (True, 100)
        longer = token("ann", channel="secret:one", ttl=200)
        assert (await client.ask(sub_refresh={"token": longer}))["sub_refresh"]["ttl"] == 200
        old = token("ann", channel="secret:three", ttl=-1)
        assert (await client.subscribe("secret:three", token=old))["error"]["code"] == 109
        foreign = token("bob", channel="secret:three")
        assert (await client.subscribe("secret:three", token=foreign))["error"]["code"] == 103


async def test_a_subscription_ends_with_its_token(start: StartNode) -> None:
    node = await start(options=HubOptions(connect=0.1, ping=0.3, grace=0.2))
    async with ws(node, hello=False) as client:
        await client.connect(token=token("ann"))
        assert "subscribe" in await client.subscribe("secret:one", token=token("ann", channel="secret:one", ttl=1))
        told = await client.next()
        assert told["push"] == {
            "channel": "secret:one",
            "unsubscribe": {"code": 2501, "reason": "subscription expired"},
        }


async def test_an_api_key_in_the_header_is_enough(start: StartNode) -> None:
    node = await start()
    headers = {"Authorization": "Bearer root-key-for-tests"}
    async with ws(node, additional_headers=headers) as client:
        assert "subscribe" in await client.subscribe("secret:a")


async def test_a_flood_of_commands_is_answered_as_fast_as_it_can_be(start: StartNode) -> None:
    node = await start(options=HubOptions(backlog=1))
    async with ws(node) as client:
        for number in range(1000, 1300):
            await client.socket.send(f'{{"id":{number},"ping":{{}}}}')
        assert [(await client.next())["id"] for _ in range(300)] == list(range(1000, 1300))
        await client.socket.send("\n".join(f'{{"id":{n},"ping":{{}}}}' for n in range(10, 100)))
        assert [(await client.next())["id"] for _ in range(90)] == list(range(10, 100))


async def test_origins_and_subprotocols(start: StartNode, settings: Settings, redis_url: str) -> None:
    del settings
    node = await start(settings=settings_for(redis_url, allowed_origins=("https://app.example",)))
    for origin in ("https://app.example", f"http://127.0.0.1:{node.port}"):
        async with connect(node.ws, additional_headers={"Origin": origin}):
            pass
    with pytest.raises(InvalidStatus) as refused:
        await connect(node.ws, additional_headers={"Origin": "https://evil.example"})
    assert refused.value.response.status_code == 403
    async with connect(node.ws, subprotocols=[Subprotocol("centrifuge-json")]) as socket:
        assert socket.subprotocol == "centrifuge-json"
    with pytest.raises(InvalidStatus) as refused:
        await connect(node.ws, subprotocols=[Subprotocol("centrifuge-protobuf")])
    assert refused.value.response.status_code == 400


async def test_an_unused_topic_goes_away(start: StartNode, channels: ChannelStore) -> None:
    node = await start()
    async with ws(node) as client:
        await client.subscribe("open:a")
        assert len(node.hub.topics) == 1
    await eventually(lambda: not node.hub.topics)
    async with ws(node) as client:
        await client.subscribe("open:a")
        await publish(channels, "open:a")
        assert (await client.pubs(1))[0]["offset"] == 1
