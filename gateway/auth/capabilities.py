"""What a principal may do on a channel. Pure; the owner of a job is looked up in `gateway.auth.access`."""

from __future__ import annotations

from gateway.auth.principals import Action, Capability, Principal
from gateway.events import channel_fault, is_job_channel
from gateway.settings import ChannelRules


def may(principal: Principal, action: Action, channel: str, rules: ChannelRules) -> bool:
    """Whether a principal may do something on a channel of its tenant.

    Who may subscribe by the namespace's rules may read the history and see who is present, too. `publish =
    never` holds for every client, whatever its token says; the channels of the job engine take nothing from
    anybody.

    Args:
        principal: who.
        action: subscribe, publish, read the history, see who is present.
        channel: any text; what is not a channel's name is refused.
        rules: of the channel's namespace.
    """
    if channel_fault(channel) is not None:
        return False
    if action == "pub":
        return _may_publish(principal, channel, rules)
    return _open_to(rules.subscribe, principal) or _may_read(principal, action, channel)


def _may_publish(principal: Principal, channel: str, rules: ChannelRules) -> bool:
    if channel_fault(channel) is not None or is_job_channel(channel):
        return False
    if principal.kind == "key" and has_scope(principal, "events:publish"):
        return True
    if rules.publish == "never":
        return False
    return _open_to(rules.publish, principal) or granted(principal.caps, "pub", channel)


def _may_read(principal: Principal, action: Action, channel: str) -> bool:
    if principal.kind == "key":
        return has_scope(principal, "channels:read")
    own = bool(principal.subject) and channel == f"user:{principal.subject}"
    return (own and action in {"sub", "hst"}) or granted(principal.caps, action, channel)


def _open_to(rule: str, principal: Principal) -> bool:
    return rule == "anyone" or (rule == "authenticated" and principal.kind != "anonymous")


def has_scope(principal: Principal, scope: str) -> bool:
    """Whether an API key holds a scope; `*` is all of them."""
    return scope in principal.scopes or "*" in principal.scopes


def granted(caps: tuple[Capability, ...], action: Action, channel: str) -> bool:
    """Whether one of the capabilities allows an action on a channel."""
    return any(
        action in cap.allow and any(_matches(pattern, cap.match, channel) for pattern in cap.channels) for cap in caps
    )


def _matches(pattern: str, match: str, channel: str) -> bool:
    if match == "wildcard" and pattern.endswith("*"):
        return channel.startswith(pattern[:-1])
    return channel == pattern
