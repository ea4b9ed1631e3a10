"""Who may do what on which channel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.access import Access
from gateway.auth.capabilities import granted, may
from gateway.auth.principals import ANONYMOUS, Action, Capability, Principal
from gateway.settings import Access as Rule
from gateway.settings import ChannelRules, Settings

CLOSED = ChannelRules()
READ = {"sub", "hst", "prs"}
ACTIONS: tuple[Action, ...] = ("sub", "pub", "hst", "prs")


def token(subject: str = "ann", *caps: Capability) -> Principal:
    return Principal(tenant="t", subject=subject, kind="token", caps=caps)


def key(*scopes: str) -> Principal:
    return Principal(tenant="t", subject="key_1", kind="key", scopes=frozenset(scopes))


def allowed(principal: Principal, channel: str, rules: ChannelRules = CLOSED) -> set[str]:
    return {action for action in ACTIONS if may(principal, action, channel, rules)}


def cap(*channels: str, match: str = "exact", allow: tuple[Action, ...] = ("sub",)) -> Capability:
    return Capability(channels=channels, match="wildcard" if match == "wildcard" else "exact", allow=allow)


@pytest.mark.parametrize(
    ("principal", "channel", "expected"),
    [
        (token(), "news", set()),
        (token(), "user:ann", {"sub", "hst"}),
        (token(), "user:anne", set()),
        (token(""), "user:", set()),
        (ANONYMOUS, "user:", set()),
        (ANONYMOUS, "news", set()),
        (key(), "news", set()),
        (key(), "user:key_1", set()),
        (key("channels:read"), "news", {"sub", "hst", "prs"}),
        (key("events:publish"), "news", {"pub"}),
        (key("*"), "news", {"sub", "pub", "hst", "prs"}),
        (key("*"), "job:1", {"sub", "hst", "prs"}),
        (key("*"), "jobs", {"sub", "hst", "prs"}),
        (key("*"), "bad name", set()),
        (key("*"), "", set()),
        (key("jobs:read", "jobs:write"), "job:1", set()),
        (token("ann", cap("news")), "news", {"sub"}),
        (token("ann", cap("news")), "news:1", set()),
        (token("ann", cap("news:*")), "news:1", set()),
        (token("ann", cap("news:*", match="wildcard", allow=("hst", "prs"))), "news:1", {"hst", "prs"}),
        (token("ann", cap("news", match="wildcard")), "news:1", set()),
        (token("ann", cap("*", match="wildcard", allow=ACTIONS)), "user:bob", {"sub", "hst", "prs"}),
    ],
)
def test_by_default_only_what_is_granted(principal: Principal, channel: str, expected: set[str]) -> None:
    assert allowed(principal, channel) == expected


@pytest.mark.parametrize(
    ("rule", "anonymous", "anyone_with_a_token"),
    [("granted", set(), set()), ("authenticated", set(), READ), ("anyone", READ, READ)],
)
def test_subscribe_rules(rule: Rule, anonymous: set[str], anyone_with_a_token: set[str]) -> None:
    rules = ChannelRules(subscribe=rule)
    assert allowed(ANONYMOUS, "news", rules) == anonymous
    assert allowed(token(), "news", rules) == anyone_with_a_token
    assert allowed(key(), "news", rules) == anyone_with_a_token


PUBLISHER = token("ann", cap("chat:1", allow=("pub",)))


@pytest.mark.parametrize(
    ("rules", "who"),
    [
        (ChannelRules(publish="never"), []),
        (ChannelRules(publish="granted"), [PUBLISHER]),
        (ChannelRules(publish="authenticated"), [PUBLISHER, token("bob")]),
        (ChannelRules(publish="anyone"), [PUBLISHER, token("bob"), ANONYMOUS]),
    ],
)
def test_publish_rules(rules: ChannelRules, who: list[Principal]) -> None:
    asked = [PUBLISHER, token("bob"), ANONYMOUS]
    assert [principal for principal in asked if may(principal, "pub", "chat:1", rules)] == who
    assert may(key("events:publish"), "pub", "chat:1", rules)


@pytest.mark.parametrize("channel", ["jobs", "job:1", "job:"])
def test_nobody_publishes_to_the_job_engine(channel: str) -> None:
    open_to_all = ChannelRules(publish="anyone")
    assert not may(key("*"), "pub", channel, open_to_all)
    assert not may(token("ann", cap("*", match="wildcard", allow=ACTIONS)), "pub", channel, open_to_all)


CHANNELS = st.text("ab:*.", min_size=1, max_size=6)


@given(CHANNELS, CHANNELS)
def test_a_wildcard_is_a_prefix(pattern: str, channel: str) -> None:
    exact = granted((cap(pattern),), "sub", channel)
    wild = granted((cap(pattern, match="wildcard"),), "sub", channel)
    assert exact == (pattern == channel)
    assert wild == (channel.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == channel)


@pytest.mark.parametrize(
    ("principal", "action", "channel", "expected"),
    [
        (token("ann"), "sub", "job:1", True),
        (token("ann"), "hst", "job:1", True),
        (token("ann"), "prs", "job:1", False),
        (token("ann"), "pub", "job:1", False),
        (token("ann"), "sub", "job:2", False),
        (token("ann"), "sub", "job:3", False),
        (token("ann"), "sub", "job", False),
        (token("ann"), "sub", "job:no such", False),
        (token(""), "sub", "job:3", False),
        (ANONYMOUS, "sub", "job:3", False),
        (key(), "sub", "job:1", False),
        (key("channels:read"), "sub", "job:9", True),
    ],
)
async def test_the_owner_of_a_job_reads_its_channel(
    principal: Principal, action: Action, channel: str, expected: object
) -> None:
    async def owner(tenant: str, job_id: str) -> str | None:
        assert tenant == "t"
        return {"1": "ann", "2": "bob", "3": ""}.get(job_id)

    assert await Access(Settings(), owner).may(principal, action, channel) is expected


async def test_access_reads_the_rules_of_the_namespace() -> None:
    async def owner(_tenant: str, _job: str) -> str | None:
        return None

    access = Access(Settings(channels={"open": ChannelRules(subscribe="anyone")}), owner)
    assert await access.may(ANONYMOUS, "sub", "open:1")
    assert not await access.may(ANONYMOUS, "sub", "open")
