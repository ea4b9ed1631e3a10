"""What a token subscribes its connection to, with options, and how that follows a newer token."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fanout import granted
from gateway.fanout.granted import NONE, Options
from gateway.settings import ChannelRules
from gateway.store.channels import ChannelStore
from tests.fanout.conftest import StartNode
from tests.fanout.support import publish, settings_for, token, ws
from tests.support.waiting import eventually

RULES = {
    "hall": ChannelRules(subscribe="authenticated", presence=True, join_leave=True),
    "plain": ChannelRules(recover=False),
}


@pytest.mark.parametrize(
    ("claim", "found"),
    [
        (b"{}", NONE),
        (b"null", NONE),
        (b"7", NONE),
        (b'{"info":{"a":1},"data":[1.0],"b64info":"eA=="}', Options(info=b'{"a":1}', data=b"[1.0]")),
        (b'{"info":null,"presence":"yes","override":7}', NONE),
        (b'{"presence":false,"recover":true,"position":true}', Options(presence=False, recover=True, position=True)),
        (b'{"override":{"join_leave":{"value":true},"presence":{"value":false}}}',
         Options(presence=False, join_leave=True)),
        (b'{"override":{"force_recovery":{"value":true},"force_positioning":{},"x":1}}', Options(recover=True)),
    ],
)  # fmt: skip
def test_options_of_a_channel(claim: bytes, found: Options) -> None:
    assert granted.options(claim) == found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["override", "info", "presence", "value"]), inner),
)


@given(JSON)
def test_no_claim_is_an_error(claim: object) -> None:
    assert isinstance(granted.options(msgspec.json.encode(claim)), Options)


def subs(**options: Any) -> Any:
    return {name.replace("_", ":"): msgspec.Raw(msgspec.json.encode(value)) for name, value in options.items()}


async def test_a_token_says_more_about_its_channels(start: StartNode, redis_url: str) -> None:
    node = await start(settings=settings_for(redis_url, channels=RULES))
    async with ws(node, hello=False) as client, ws(node, hello=False) as other:
        await other.connect(token=token("watcher"))
        await other.subscribe("hall:a")
        await other.next()
        claim = subs(
            hall_a={"info": {"role": 1}, "data": {"hello": [1]}, "join_leave": False},
            plain_a={},
            plain_b={"recover": True},
        )
        found = (await client.connect(token=token("ann", subs=claim)))["connect"]["subs"]
        assert found["hall:a"]["data"] == {"hello": [1]}
        assert "data" not in found["plain:a"]
        assert (found["plain:a"].get("recoverable", False), found["plain:b"]["recoverable"]) == (False, True)
        info = (await other.next())["push"]["join"]["info"]
        assert (info["user"], info["chan_info"]) == ("ann", {"role": 1})
        await publish(node.channels, "hall:a", data=1)
        assert "pub" in (await client.next())["push"]  # and no join before it


async def test_a_token_can_hide_its_member(start: StartNode, redis_url: str) -> None:
    node = await start(settings=settings_for(redis_url, channels=RULES))
    async with ws(node, hello=False) as hidden, ws(node, hello=False) as other:
        await hidden.connect(token=token("ghost", subs=subs(hall_a={"presence": False})))
        await other.connect(token=token("ann"))
        await other.subscribe("hall:a")
        assert (await hidden.next())["push"]["join"]["info"]["user"] == "ann"
        assert (await other.next())["push"]["join"]["info"]["user"] == "ann"
        assert (await other.ask(presence_stats={"channel": "hall:a"}))["presence_stats"]["num_clients"] == 1


async def test_a_newer_token_changes_the_server_side_subscriptions(
    start: StartNode, redis_url: str, channels: ChannelStore
) -> None:
    node = await start(settings=settings_for(redis_url, channels=RULES))
    async with ws(node, hello=False) as client:
        await client.connect(token=token("ann", channels=("plain:a", "plain:b")))
        await client.subscribe("hall:c")
        newer = token("ann", channels=("plain:b", "hall:c"), subs=subs(plain_d={"recover": True, "data": 1}))
        await client.send(refresh={"token": newer})
        seen = [await client.next() for _ in range(4)]
        pushes = {line["push"]["channel"]: line["push"] for line in seen if "push" in line}
        assert pushes["plain:a"]["unsubscribe"] == {"code": 2000, "reason": "server unsubscribe"}
        told = pushes["plain:d"]["subscribe"]
        assert (told["recoverable"], told["positioned"], told["data"]) == (True, True, 1)
        assert "refresh" in seen[-1] or "refresh" in seen[-2]
        await publish(channels, "plain:a", data="gone")
        await publish(channels, "plain:d", data="here")
        push = (await client.next())["push"]
        assert (push["channel"], push["pub"]["offset"]) == ("plain:d", 1)
    await eventually(lambda: not node.hub.connections)
