from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.events import Publication, draft
from gateway.fanout.wire import MAX_BATCH, Batch, Entry, encode_pub, fill, inner_data, push_prefix

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=30), inner, max_size=3),
    max_leaves=8,
)
MARKER = ',"datacontenttype":"application/json","data":'


def event(data: Any, subject: str | None = None, trace: str | None = None) -> bytes:
    made = draft("a.b", json.dumps(data).encode(), id_="x", source="/s", subject=subject, traceparent=trace)
    return f'{made.head},"time":"2026-01-01T00:00:00.000Z","sequence":"1"{made.tail}'.encode()


def entry(offset: int, data: Any = None, *, info: bytes = b"", key: str = "") -> Entry:
    return Entry(Publication("g.0", offset, offset * 10, "a.b", key, info, event(data)))


@given(JSON, st.none() | st.text(max_size=20) | st.just(MARKER), st.none() | st.just(MARKER))
def test_the_inner_data_is_found_whatever_stands_around_it(data: Any, subject: str | None, trace: str | None) -> None:
    made = event(data, subject, trace)
    assert json.loads(inner_data(made)) == data
    assert json.loads(inner_data(event({"in": made.decode()}))) == {"in": made.decode()}


def test_a_client_gets_its_own_words_back_and_everyone_else_the_event() -> None:
    said = entry(3, {"hello": 1.0}, info=b'{"user":"ann","client":"c"}')
    assert said.pub == b'{"data":{"hello": 1.0},"offset":3,"info":{"user":"ann","client":"c"}}'
    told = json.loads(entry(4, {"hello": 1.0}).pub)
    assert told["offset"] == 4
    assert told["data"]["type"] == "a.b"
    assert told["data"]["data"] == {"hello": 1.0}


def test_skipped_publications_are_told_on_the_successor() -> None:
    assert json.loads(encode_pub(entry(9).publication, 3))["tags"] == {"skipped": "3"}


def test_a_batch_is_encoded_once_in_every_form() -> None:
    entries = [entry(1, "a"), entry(2, "b")]
    batch = Batch(push_prefix('open:"x'), entries)
    lines = [json.loads(line) for line in batch.text.split(b"\n")]
    assert [line["push"]["channel"] for line in lines] == ['open:"x', 'open:"x']
    assert [line["push"]["pub"]["offset"] for line in lines] == [1, 2]
    assert batch.frame.endswith(batch.text)
    assert batch.frame is batch.frame
    assert batch.blocks == entries[0].block + entries[1].block
    assert batch.blocks.startswith(b"id: g.a\nevent: a.b\ndata: {")


@given(st.lists(st.integers(0, 100_000), max_size=30))
def test_a_frame_takes_as_much_as_fits_and_never_nothing(sizes: list[int]) -> None:
    entries = [entry(index + 1, "x" * size) for index, size in enumerate(sizes)]
    taken: list[Entry] = []
    while len(taken) < len(entries):
        part = fill(entries[len(taken) :])
        assert part
        assert len(part) == 1 or sum(len(one.pub) for one in part) <= MAX_BATCH
        taken += part
    assert taken == entries
