from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.examples.cells import read


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("0", "integer", 0),
        ("-17", "integer", -17),
        ("+5", "integer", 5),
        ("999999999999999999", "integer", 999999999999999999),
        ("1234567890123456789", "code", 0),
        ("00501", "code", 0),
        ("1.5", "number", 1.5),
        ("-.5", "number", -0.5),
        ("2.", "number", 2),
        ("1e3", "number", 1000),
        ("1e400", "string", 0),
        ("1e9999", "string", 0),
        ("1,5", "string", 0),
        ("01.5", "string", 0),
        ("٣", "string", 0),
        ("nan", "string", 0),
        ("inf", "string", 0),
        ("1_000", "string", 0),
        ("0x10", "string", 0),
        ("-", "string", 0),
        ("TRUE", "boolean", 1),
        ("no", "boolean", 0),
        ("1970-01-02", "date", 86400),
        ("1970/01/02", "date", 86400),
        ("1969-12-31", "date", -86400),
        ("0001-01-01", "date", -62135596800),
        ("2023-02-30", "string", 0),
        ("2023-02/28", "string", 0),
        ("1970-01-01T00:01", "datetime", 60),
        ("1970-01-01 00:00:01.5", "datetime", 1.5),
        ("1970-01-01T01:00:00+01:00", "datetime", 0),
        ("1970-01-01T00:00:00Z", "datetime", 0),
        ("1970-01-01T25:00", "string", 0),
        ("Seattle", "string", 0),
        ("1" * 41, "string", 0),
    ],
)
def test_kinds(text: str, kind: str, value: float) -> None:
    assert read(text) == (kind, value)


@given(st.text(min_size=1))
def test_any_text_is_something(text: str) -> None:
    assert read(text).kind


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_read_exactly(number: float) -> None:
    assert read(repr(number)) == ("number", number)


@given(st.datetimes())
def test_times_are_read_whatever_their_zone(moment: object) -> None:
    assert read(str(moment)).kind == "datetime"
