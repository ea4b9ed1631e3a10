"""Server-side subscriptions: what a token's `subs` claim says about each. Pure.

Source: "Server-side subscriptions" and the claim `subs` of "JWT authentication" on centrifugal.dev.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec


class Options(NamedTuple):
    """What a token asks for on one channel; None leaves it to the namespace's rules.

    Attributes:
        info: what others are told about this member, beside `conn_info`: compact JSON, or empty.
        data: handed to the client with the subscription: compact JSON, or empty.
        presence: whether the member can be seen.
        join_leave: whether the member hears of joins and leaves.
        recover: whether the subscription is recoverable.
        position: whether it has a position.
    """

    info: bytes = b""
    data: bytes = b""
    presence: bool | None = None
    join_leave: bool | None = None
    recover: bool | None = None
    position: bool | None = None


NONE = Options()
_OVERRIDES = {
    "presence": ("presence",),
    "join_leave": ("force_push_join_leave", "join_leave"),
    "recover": ("force_recovery", "recover"),
    "position": ("force_positioning", "position"),
}


def options(claim: bytes) -> Options:
    """Read the options of one channel; what we do not know or cannot use is as if it were not there."""
    fields = _object(claim)
    override = {name: _object(raw).get("value") for name, raw in _object(fields.get("override")).items()}
    found: dict[str, Any] = {name: _json(fields.get(name)) for name in ("info", "data")}
    for name, spellings in _OVERRIDES.items():
        wanted = [_flag(source.get(spelling)) for spelling in spellings for source in (fields, override)]
        found[name] = next((value for value in wanted if value is not None), None)
    return Options(**found)


def _object(raw: object) -> Mapping[str, msgspec.Raw]:
    if raw is None:
        return {}
    try:
        return msgspec.json.decode(bytes(raw), type=dict[str, msgspec.Raw])  # type: ignore[call-overload] # bytes or Raw
    except msgspec.DecodeError:
        return {}


def _json(raw: msgspec.Raw | None) -> bytes:
    value = b"" if raw is None else bytes(raw)
    return b"" if value == b"null" else value


def _flag(raw: msgspec.Raw | None) -> bool | None:
    return {b"true": True, b"false": False}.get(b"" if raw is None else bytes(raw))
