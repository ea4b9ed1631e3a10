"""What Centrifuge clients say to us: commands of the client protocol v2 in JSON. Pure.

Source: `definitions/client.proto` of github.com/centrifugal/protocol, and "client protocol" on centrifugal.dev.
"""

from __future__ import annotations

import json
from typing import Annotated

import msgspec

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
MAX_COMMANDS = 32 * 1024  # in one message: who sends more than a few thousand floods anyway
_decoder = msgspec.json.Decoder(Command)


class Malformed(ValueError):
    """A message that is not commands."""


def decode(message: bytes) -> list[Command]:
    """Read the commands of one message: JSON objects separated by newlines, or just one after another.

    Raises:
        Malformed: not that, not UTF-8, or more commands or nested deeper than anyone needs.
    """
    if message.count(b"\n") > MAX_COMMANDS:
        raise Malformed("too many commands")
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
            if len(parts) == MAX_COMMANDS:
                raise Malformed("too many commands")
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
