"""What is a message, and what is none: whoever may publish to a job queue may send anything."""

from __future__ import annotations

import msgspec
import pytest

from gateway.jobs.queue import Undecodable, decode, encode
from tests.support.messages import make_message


def test_a_message_comes_back_as_it_was() -> None:
    message = make_message("default")
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tenant", "default\n"),  # names stand in keys and lists of Redis, parted by spaces and colons
        ("tenant", "a b"),
        ("pool", "default\n"),
        ("type", "two words"),
        ("type", "x" * 101),
        ("type", ""),
        ("run", 0),
        ("run", 10**30),
        ("attempt", 10**30),
        ("created_at", -1),
        ("created_at", 10**30),
        ("traceparent", "00-" + "a" * 32 + "-" + "b" * 16 + "-00\n"),
    ],
)
def test_what_would_break_a_script_is_no_message(field: str, value: object) -> None:
    members = {**msgspec.json.decode(encode(make_message("default"))), field: value}
    with pytest.raises(Undecodable, match=field):
        decode(msgspec.json.encode(members) if value != 10**30 else _large(members, field))


def _large(members: dict[str, object], field: str) -> bytes:
    return msgspec.json.encode({**members, field: 424242}).replace(b"424242", b"1" + b"0" * 30)
