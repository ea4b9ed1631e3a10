"""Byte ranges: what is sent, what is refused, what is ignored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.web.ranges import NotSatisfiable, wanted

SIZE = 100
TAG = '"abc"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=0-99", (0, 100)),
        ("bytes=10-", (10, 100)),
        ("bytes=10-1000", (10, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("Bytes = 5 - 6", (5, 7)),
        ("bytes=6-5", None),
        ("bytes=-", None),
        ("bytes=", None),
        ("bytes=a-b", None),
        ("bytes=0-1,5-6", None),
        ("lines=0-1", None),
        ("bytes=0-" + "9" * 30, None),
    ],
)
def test_a_range(header: str | None, expected: tuple[int, int] | None) -> None:
    assert wanted(header, None, TAG, SIZE) == expected


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=100-", SIZE), ("bytes=-0", SIZE), ("bytes=0-0", 0), ("bytes=-5", 0)]
)
def test_a_range_behind_the_end(header: str, size: int) -> None:
    with pytest.raises(NotSatisfiable):
        wanted(header, None, TAG, size)


@pytest.mark.parametrize(
    ("if_range", "expected"),
    [(TAG, (5, 10)), ('"other"', None), ('W/"abc"', None), ("Wed, 25 Nov 2026 00:00:00 GMT", None)],
)
def test_a_range_of_another_content_is_the_whole(if_range: str, expected: tuple[int, int] | None) -> None:
    assert wanted("bytes=5-9", if_range, TAG, SIZE) == expected


@given(st.text(alphabet="bytes=-,0123456789 ", max_size=30), st.integers(0, 1000))
def test_whatever_is_sent_is_in_the_file(header: str, size: int) -> None:
    try:
        part = wanted(header, None, TAG, size)
    except NotSatisfiable:
        return
    assert part is None or 0 <= part[0] < part[1] <= size
