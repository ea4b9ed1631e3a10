"""Events, channel names, publications, ids."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.events import (
    base36,
    channel_fault,
    draft,
    namespace,
    new_id,
    parse_entry,
    parse_live,
)

WORDS = st.text("abcXYZ019._:@/-", min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("channel", "ok"),
    [("a", True), ("job:x.y@z/1-2_3", True), ("a" * 200, True), ("a" * 201, False), ("", False), ("a b", False)],
)
def test_channel_names(channel: str, ok: bool) -> None:  # noqa: FBT001 - a table's column
    assert (channel_fault(channel) is None) is ok


@pytest.mark.parametrize(("channel", "expected"), [("a:b:c", "a"), ("abc", ""), (":x", "")])
def test_namespaces(channel: str, expected: str) -> None:
    assert namespace(channel) == expected


@given(st.text(max_size=50), st.none() | st.text(min_size=1, max_size=20))
def test_a_draft_is_an_event_around_what_the_store_adds(data: str, subject: str | None) -> None:
    encodable = data.encode("utf-8", "replace").decode()
    wanted = subject.encode("utf-8", "replace").decode() if subject else None
    made = draft("a.b", json.dumps(encodable).encode(), id_="e1", source="/s", subject=wanted)
    event = json.loads(made.head + ',"time":"t","sequence":"s"' + made.tail)
    assert event["data"] == encodable
    assert event.get("subject") == wanted
    assert (event["specversion"], event["datacontenttype"]) == ("1.0", "application/json")


@given(WORDS, st.integers(1, 2**40), st.integers(1, 2**40), st.none() | WORDS, st.none() | st.text(" {}ab", min_size=2))
def test_live_payload_and_history_entry_say_the_same(
    type_: str, offset: int, sequence: int, key: str | None, info: str | None
) -> None:
    entry = f"0 {type_} {key or '-'} {info or '-'}\n{{}}".encode()
    live = parse_live(b"1 gen.b %d %d " % (offset, sequence) + entry)
    assert parse_entry("gen.b", b"%d-%d" % (offset, sequence), entry) == live
    assert (live.offset, live.sequence, live.type) == (offset, sequence, type_)
    assert live.key == ("" if key in {None, "-"} else key)


def test_ids_are_distinct_and_sort_by_time() -> None:
    first = [new_id("job_") for _ in range(100)]
    time.sleep(0.002)  # ids sort by the millisecond
    second = new_id("job_")
    assert len(set(first)) == 100
    assert all(identifier < second for identifier in first)
    assert all(len(identifier) == 30 for identifier in first)


@given(st.integers(0, 2**63))
def test_base36(number: int) -> None:
    assert int(base36(number), 36) == number
