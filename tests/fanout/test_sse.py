from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.events import Publication
from gateway.fanout import sse

EVENT = Publication("g1.0", 3, 40, "a.b", "", b"", b'{"specversion":"1.0","id":"x"}')


@given(st.from_regex(r"[0-9a-z]{1,8}", fullmatch=True), st.integers(0, 2**53), st.sampled_from(["", "AbC_-9"]))
def test_a_cursor_comes_back_as_it_went(generation: str, sequence: int, mac: str) -> None:
    cursor = sse.Cursor(generation, sequence, mac)
    text = f"{cursor.text}.{mac}" if mac else cursor.text
    assert sse.parse_cursor(text) == cursor


@pytest.mark.parametrize("text", ["", "1", "1.", ".1", "1.2.3.4", "A.1", "1.1\n", "1." + "z" * 13, "ü.1", "1 .2"])
def test_what_was_never_a_cursor_is_none(text: str) -> None:
    assert sse.parse_cursor(text) is None


def test_blocks() -> None:
    assert sse.publication_block(EVENT, b"g1.14") == (
        b'id: g1.14\nevent: a.b\ndata: {"specversion":"1.0","id":"x"}\n\n'
    )
    assert sse.publication_block(EVENT, b"g1.14", named=False) == (
        b'id: g1.14\ndata: {"specversion":"1.0","id":"x"}\n\n'
    )
    assert sse.publication_block(EVENT, b"g1.14", skipped=4) == (
        b'id: g1.14\nevent: a.b\ndata: {"skipped":4,"specversion":"1.0","id":"x"}\n\n'
    )
    assert sse.opening("g1.14", 1.5) == b": open\nretry: 1500\nid: g1.14\nevent: gateway.open\ndata: \n\n"
    assert sse.reset("g1.14", "history") == b'id: g1.14\nevent: gateway.reset\ndata: {"reason":"history"}\n\n'
    assert sse.bye("shutdown", 2.0) == b'retry: 2000\nevent: gateway.bye\ndata: {"reason":"shutdown"}\n\n'
    assert sse.state_block(b'{"type":"job.failed"}', b"g1.14") == (
        b'id: g1.14\nevent: job.failed\ndata: {"type":"job.failed"}\n\n'
    )
