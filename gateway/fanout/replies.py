"""What we say to Centrifuge clients: replies and pushes of the client protocol v2 in JSON. Pure.

Source: `definitions/client.proto` of github.com/centrifugal/protocol; the requests are in `centrifuge`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.fanout.centrifuge import NOTHING
from gateway.fanout.codes import Disconnect, Refusal, Unsubscribe


class SubscribeResult(msgspec.Struct, omit_defaults=True):
    """`subscribe`, and the values of `connect.subs` in the reply."""

    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    publications: list[msgspec.Raw] = []
    recovered: bool = False
    was_recovering: bool = False
    expires: bool = False
    ttl: int = 0
    data: msgspec.Raw = NOTHING


class ConnectResult(msgspec.Struct, omit_defaults=True):
    """`connect` and `refresh`."""

    client: str
    version: str
    expires: bool = False
    ttl: int = 0
    subs: dict[str, SubscribeResult] = {}
    ping: int = 0
    pong: bool = False
    session: str = ""
    node: str = ""


class SubRefreshResult(msgspec.Struct, omit_defaults=True):
    """`sub_refresh`."""

    expires: bool = False
    ttl: int = 0


class PresenceResult(msgspec.Struct):
    """`presence`: infos by client."""

    presence: dict[str, msgspec.Raw]


class PresenceStatsResult(msgspec.Struct):
    """`presence_stats`; clients read both numbers without a default."""

    num_clients: int
    num_users: int


class RpcResult(msgspec.Struct):
    """`rpc`."""

    data: msgspec.Raw


class HistoryResult(msgspec.Struct):
    """`history`; clients read `publications` without a default."""

    publications: list[msgspec.Raw]
    epoch: str
    offset: int


_encode = msgspec.json.Encoder().encode


def reply(id_: int, method: str, result: object = None) -> bytes:
    """Encode a successful reply; no result is an empty object."""
    body = b"{}" if result is None else _encode(result)
    return b'{"id":%d,"%b":%b}' % (id_, method.encode(), body)


def refuse(id_: int, refusal: Refusal) -> bytes:
    """Encode an error reply."""
    temporary = b',"temporary":true' if refusal.temporary else b""
    return b'{"id":%d,"error":{"code":%d,"message":%b%b}}' % (
        id_,
        refusal.code,
        _encode(refusal.message),
        temporary,
    )


def unsubscribe_push(channel: str, told: Unsubscribe) -> bytes:
    """Encode the push that ends a subscription."""
    body = {"push": {"channel": channel, "unsubscribe": {"code": told.code, "reason": told.reason}}}
    return _encode(body)


def subscribe_push(channel: str, joined: SubscribeResult) -> bytes:
    """Encode the push that tells of a new server-side subscription."""
    return _encode({"push": {"channel": channel, "subscribe": joined}})


def disconnect_push(told: Disconnect) -> bytes:
    """Encode the push that says what a close frame would; clients tell by the code whether to come back."""
    return _encode({"push": {"disconnect": {"code": told.code, "reason": told.reason}}})


def refresh_push(ttl: int) -> bytes:
    """Encode the push that warns of a close in `ttl` seconds, unless a `refresh` command comes before."""
    return _encode({"push": {"refresh": {"expires": True, "ttl": ttl}}})


def join(replies: Sequence[bytes], limit: int) -> list[bytes]:
    """Put replies into as few messages as `limit` bytes each allow."""
    messages: list[bytes] = []
    current: list[bytes] = []
    size = 0
    for line in replies:
        if current and size + len(line) > limit:
            messages.append(b"\n".join(current))
            current, size = [], 0
        current.append(line)
        size += len(line) + 1
    if current:
        messages.append(b"\n".join(current))
    return messages


def client_info(user: str, client: str, info: bytes, channel_info: bytes = b"") -> bytes:
    """Encode who somebody is: `{"user", "client", "conn_info"?, "chan_info"?}`."""
    fields: dict[str, object] = {"user": user, "client": client}
    if info:
        fields["conn_info"] = msgspec.Raw(info)
    if channel_info:
        fields["chan_info"] = msgspec.Raw(channel_info)
    return _encode(fields)
