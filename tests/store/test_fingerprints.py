"""Errors that are the same have one group, errors that are not have two."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.fingerprints import MAX_PATTERN, group_of, pattern


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("row 17 is not a date", "row <n> is not a date"),
        ("took 1.5 s of 10,000", "took <n> s of <n>"),
        ("no job job_01k9z3v4q8m2n5p7r9s1t3v5w7", "no job <id>"),
        ("user 6f1c2d3e-0000-4abc-9def-0123456789ab is gone", "user <uuid> is gone"),
        ("object at 0x7f3a2b1c", "object at <hex>"),
        ("commit deadbeef01 is bad", "commit <hex> is bad"),
        ("since 2026-11-25T20:51:14.793Z", "since <time>"),
        ("on 2026-11-25", "on <time>"),
        ("connect to 10.0.0.7:5432", "connect to <n>:<n>"),
        ("mail to ann.b@mail.example.org bounced", "mail to <email> bounced"),
        ("a\n  stack\ttrace", "a stack trace"),
        ("KeyError: 'name'", "KeyError: 'name'"),
        ("the facade is decaded", "the facade is decaded"),
        ("http2 and utf8", "http2 and utf8"),
        ("", ""),
    ],
)
def test_what_varies_becomes_a_placeholder(message: str, expected: str) -> None:
    assert pattern(message) == expected


def test_the_same_error_has_one_group_and_others_have_their_own() -> None:
    first, second = group_of("ValueError", "row 1 is bad"), group_of("ValueError", "row 22 is bad")
    assert first == second
    assert json.loads(first.json) == {"id": first.id, "error_type": "ValueError", "message": "row <n> is bad"}
    assert group_of("TypeError", "row 1 is bad").id != first.id
    assert group_of("ValueError", "line 1 is bad").id != first.id


@given(st.text(), st.text())
def test_any_error_has_a_group_that_fits_a_line(error_type: str, message: str) -> None:
    group = group_of(error_type, message)
    assert "\n" not in group.error_type + group.json
    assert len(group.id) == 12
    assert len(json.loads(group.json)["message"]) <= MAX_PATTERN


def test_a_message_made_to_be_slow_is_not() -> None:
    began = time.process_time()
    for hostile in ("1" * 5000, "a@" * 5000, "0x" * 5000, "a." * 5000 + "@", "1." * 5000, "f" * 5000):
        pattern(hostile)
    assert time.process_time() - began < 1
