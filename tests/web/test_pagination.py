"""Query parameters: every wrong one named; cursors survive the trip and nothing else passes for one."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from gateway.errors import InvalidFields
from gateway.web.pagination import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    Page,
    Query,
    decode_cursor,
    encode_cursor,
    page_body,
)


def faults(query: Query) -> dict[str, str]:
    with pytest.raises(InvalidFields) as caught:
        query.check()
    return dict(caught.value.errors)


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("", Page(DEFAULT_LIMIT, None)),
        ("limit=1", Page(1, None)),
        (f"limit={MAX_LIMIT}&cursor=abc", Page(MAX_LIMIT, "abc")),
        ("cursor=", Page(DEFAULT_LIMIT, None)),
    ],
)
def test_pages(query: str, page: Page) -> None:
    found = Query(QueryParams(query))
    assert found.page() == page
    found.check()


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "1.5", "", "9" * 30, "٣", " 1"])
def test_a_wrong_limit_is_named(limit: str) -> None:
    query = Query(QueryParams({"limit": limit}))
    assert query.page() == Page(DEFAULT_LIMIT, None)
    assert faults(query) == {"?limit": "must be an integer of 1 to 1000"}


def test_all_wrong_parameters_are_named_together() -> None:
    query = Query(QueryParams("limit=x&status=odd&flag=maybe&a=1&a=2&t=1&t=2&t=3&cursor=" + "c" * 2000))
    assert query.page() == Page(DEFAULT_LIMIT, None)
    assert query.choice("status", ["queued", "running"]) is None
    assert query.flag("flag") is False
    assert query.text("a") is None
    assert query.texts("t", count=2) == []
    assert faults(query) == {
        "?limit": "must be an integer of 1 to 1000",
        "?cursor": "must have at most 1024 characters",
        "?status": "must be one of: queued, running",
        "?flag": "must be true or false",
        "?a": "must be given once",
        "?t": "must be given at most 2 times",
    }


def test_right_parameters_are_read() -> None:
    query = Query(QueryParams("n=-5&flag=TRUE&off=0&status=queued&t=1&t=2"))
    assert query.integer("n", 0, minimum=-10, maximum=10) == -5
    assert query.flag("flag") is True
    assert query.flag("off", default=True) is False
    assert query.flag("absent", default=True) is True
    assert query.choice("status", ["queued"]) == "queued"
    assert query.choice("absent", ["queued"]) is None
    assert query.texts("t", count=2) == ["1", "2"]
    query.check()


def test_long_texts_are_refused() -> None:
    query = Query(QueryParams("t=" + "x" * 10))
    assert query.texts("t", count=2, maximum=9) == []
    assert faults(query) == {"?t": "must have at most 9 characters"}


@given(st.lists(st.integers(-(2**60), 2**60) | st.text(), max_size=5))
def test_a_cursor_survives(value: list[int | str]) -> None:
    cursor = encode_cursor(value)
    assert cursor.isascii()
    assert not set(cursor) & set("+/=&?#% ")
    assert decode_cursor(cursor, list[int | str]) == value


@given(st.text(max_size=50))
def test_no_text_breaks_the_cursor_reader(text: str) -> None:
    with suppress(InvalidFields):
        decode_cursor(text, list[int])


@pytest.mark.parametrize("cursor", ["", "x", "!!!", "WzFd$", encode_cursor(["text"])])
def test_a_wrong_cursor_is_named(cursor: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        decode_cursor(cursor, list[int])
    assert caught.value.errors[0].pointer == "?cursor"


def test_a_page_of_a_list() -> None:
    assert page_body([1], "c") == {"items": [1], "next_cursor": "c"}
