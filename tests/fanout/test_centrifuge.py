from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fanout import codes, replies
from gateway.fanout.centrifuge import Malformed, decode

COMMANDS: list[dict[str, Any]] = [
    {"id": 1, "connect": {"token": "t", "name": "js", "headers": {"a": "b"}, "flag": 1}},
    {"id": 2, "subscribe": {"channel": "a:b", "recover": True, "epoch": "e", "offset": 4}},
    {"id": 3, "publish": {"channel": "a", "data": {"br}ce": ['"', "\\", {}]}}},
    {"id": 4, "history": {"channel": "a", "limit": -1, "since": {"offset": 3, "epoch": "x"}}},
    {"send": {"data": 1}},
    {},
]


@given(st.lists(st.sampled_from(COMMANDS), min_size=1, max_size=6), st.sampled_from(["\n", "", " ", "\n\n"]))
def test_commands_come_in_lines_or_one_after_another(commands: list[dict[str, Any]], between: str) -> None:
    message = between.join(json.dumps(command) for command in commands)
    decoded = decode(message.encode())
    assert [command.id for command in decoded] == [command.get("id", 0) for command in commands]
    names = [next((name for name in command if name != "id"), "") for command in commands]
    assert [command.method for command in decoded] == names


def test_fields_are_read() -> None:
    (command,) = decode(json.dumps(COMMANDS[1]).encode())
    assert command.subscribe is not None
    assert (command.subscribe.channel, command.subscribe.recover, command.subscribe.offset) == ("a:b", True, 4)
    (command,) = decode(b'{"id":3,"publish":{"channel":"a","data":{"n": 1.0}}}')
    assert command.publish is not None
    assert bytes(command.publish.data) == b'{"n": 1.0}'


@pytest.mark.parametrize(
    "message",
    [b"", b"x", b"[]", b"1", b'{"id":-1}', b'{"id":"1"}', b'{"id":1,"connect":3}', b'{"id":1} x', b'{"id":1}}',
     b'{"id":1,"connect":{}', b'{"id":1,"history":{"channel":"a","limit":-2}}',
     b'{"id":9007199254740993}', b'{"id":1,"subscribe":{"channel":"a","offset":18446744073709551616}}',
     b"[" * 30_000, b'{"id":1,"a":' + b"[" * 30_000, b'{"id":1}{"id":1,"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
     b'{"id":1}\n{"id":1,"connect":{"data":' + b'{"a":' * 10_000],
    ids=lambda message: message[:30],
)  # fmt: skip
def test_everything_else_is_malformed(message: bytes) -> None:
    with pytest.raises(Malformed):
        decode(message)


def test_replies_have_what_clients_read_without_a_default() -> None:
    history = replies.HistoryResult(publications=[], epoch="e", offset=0)
    assert json.loads(replies.reply(7, "history", history)) == {
        "id": 7, "history": {"publications": [], "epoch": "e", "offset": 0},
    }  # fmt: skip
    assert replies.reply(8, "unsubscribe") == b'{"id":8,"unsubscribe":{}}'
    assert json.loads(replies.refuse(9, codes.INTERNAL)) == {
        "id": 9, "error": {"code": 100, "message": "internal server error", "temporary": True},
    }  # fmt: skip
    assert "temporary" not in json.loads(replies.refuse(9, codes.PERMISSION_DENIED))["error"]


@given(st.lists(st.binary(min_size=1, max_size=50).filter(lambda line: b"\n" not in line), max_size=20))
def test_replies_share_messages_up_to_the_limit(lines: list[bytes]) -> None:
    messages = replies.join(lines, 100)
    assert [line for message in messages for line in message.split(b"\n")] == lines
    assert all(len(message) <= 100 + 1 for message in messages)
