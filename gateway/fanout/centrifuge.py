"""The Centrifuge client protocol v2 in JSON: commands in, replies and pushes out. Pure.

Source: `definitions/client.proto` of github.com/centrifugal/protocol, and "client protocol" on centrifugal.dev.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import msgspec

from gateway.fanout.codes import Disconnect, Refusal, Unsubscribe

PING = b"{}"
REJECT_UNRECOVERED = 2  # subscribe flag: answer error 112 instead of `recovered: false`

# What JavaScript counts to; far beyond it numbers do not even fit into what we send to the store.
Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Limit = Annotated[int, msgspec.Meta(ge=-1, le=2**53)]
NOTHING = msgspec.Raw(b"")


class SubscribeRequest(msgspec.Struct):
    """`subscribe`, and the values of `connect.subs` (without the channel)."""

    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: Number = 0
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    tf: msgspec.Raw = NOTHING
    flag: int = 0


class ConnectRequest(msgspec.Struct):
    """`connect`."""

    token: str = ""
    subs: dict[str, SubscribeRequest] = {}
    name: str = ""
    version: str = ""


class ChannelRequest(msgspec.Struct):
    """`unsubscribe`, `presence`, `presence_stats`."""

    channel: str = ""


class PublishRequest(msgspec.Struct):
    """`publish`; `data` stays as the client wrote it."""

    channel: str = ""
    data: msgspec.Raw = NOTHING


class Since(msgspec.Struct):
    """A position in a request."""

    offset: Number = 0
    epoch: str = ""


class HistoryRequest(msgspec.Struct):
    """`history`: limit 0 asks for the position only, -1 for all."""

    channel: str = ""
    limit: Limit = 0
    since: Since | None = None
    reverse: bool = False


class RpcRequest(msgspec.Struct):
    """`rpc`."""

    method: str = ""
    data: msgspec.Raw = NOTHING


class TokenRequest(msgspec.Struct):
    """`refresh`, and `sub_refresh` (whose channel may be missing)."""

    token: str = ""
    channel: str = ""


class Empty(msgspec.Struct):
    """A request whose content does not matter here."""


class Command(msgspec.Struct):
    """One command: an id (0 for `send`, and for the pong, which is empty) and one request."""

    id: Number = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: ChannelRequest | None = None
    publish: PublishRequest | None = None
    presence: ChannelRequest | None = None
    presence_stats: ChannelRequest | None = None
    history: HistoryRequest | None = None
    ping: Empty | None = None
    send: Empty | None = None
    rpc: RpcRequest | None = None
    refresh: TokenRequest | None = None
    sub_refresh: TokenRequest | None = None

    @property
    def method(self) -> str:
        """The name of its request, or "" for a pong."""
        for name in _METHODS:
            if getattr(self, name) is not None:
                return name
        return ""


_METHODS = tuple(name for name in Command.__struct_fields__ if name != "id")
_decoder = msgspec.json.Decoder(Command)


class Malformed(ValueError):
    """A message that is not commands."""


def decode(message: bytes) -> list[Command]:
    """Read the commands of one message: JSON objects separated by newlines, or just one after another.

    Raises:
        Malformed: not that, not UTF-8, or nested deeper than anyone needs.
    """
    try:
        return _decoder.decode_lines(message) if b"\n" in message else [_decoder.decode(message)]
    except RecursionError:
        raise Malformed("nested too deeply") from None
    except msgspec.DecodeError:
        parts = _split(message)
    try:
        return [_decoder.decode(part) for part in parts]
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(str(error)) from None


def _split(message: bytes) -> list[bytes]:
    """Cut concatenated objects apart, at the speed of C."""
    parts: list[bytes] = []
    try:
        text = message.decode()
        at = _space(text, 0)
        while at < len(text):
            _, end = _scan(text, at)
            parts.append(text[at:end].encode())
            at = _space(text, end)
    except (ValueError, RecursionError):
        raise Malformed("not a sequence of JSON objects") from None
    if not parts:
        raise Malformed("not a sequence of JSON objects")
    return parts


# Numbers stay text: only the ends matter here.
_scan = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode


def _space(text: str, start: int) -> int:
    while text[start : start + 1] in _BLANKS:
        start += 1
    return start


_BLANKS = frozenset(" \t\r\n")


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
