from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.examples.csvfile import MAX_LINE, NotCsv, Table, column_names

Read = tuple[list[str], list[list[str]], dict[str, dict[str, int]]]


def read(data: bytes | str, **options: object) -> Read:
    raw = data.encode() if isinstance(data, str) else data
    table = Table(io.BytesIO(raw), **options)  # type: ignore[arg-type] # delimiter and header, from the tables below
    rows = list(table.rows())
    return table.names, rows, table.issues.describe()


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_layouts(delimiter: str, ending: str, encoding: str) -> None:
    text = ending.join(delimiter.join(row) for row in [["name", "città"], ["a", "1"], ["b", "2"]])
    assert read(text.encode(encoding)) == (["name", "città"], [["a", "1"], ["b", "2"]], {})


@pytest.mark.parametrize(
    ("text", "names", "rows"),
    [
        ('a,b\n"x, y","say ""hi"""\n', ["a", "b"], [["x, y", 'say "hi"']]),
        ('a,b\n"two\nlines",2\n', ["a", "b"], [["two\nlines", "2"]]),
        ("price;note\n1,5;a\n2,5;b\n", ["price", "note"], [["1,5", "a"], ["2,5", "b"]]),
        ("just one\nred\nblue\n", ["just one"], [["red"], ["blue"]]),
        ("1,2\n3,4\n", ["column 1", "column 2"], [["1", "2"], ["3", "4"]]),
        ("red\nblue\nred\n", ["column 1"], [["red"], ["blue"], ["red"]]),
        ("a,\n1,2\n", ["column 1", "column 2"], [["a", ""], ["1", "2"]]),
        ("a,b", ["a", "b"], []),
        (" a , b \n1,2\n", ["a", "b"], [["1", "2"]]),
    ],
)
def test_shapes(text: str, names: list[str], rows: list[list[str]]) -> None:
    assert read(text)[:2] == (names, rows)


def test_guesses_can_be_overruled() -> None:
    assert read("2019;2020\n1;2\n", header=True)[0] == ["2019", "2020"]
    assert read("a,b;c\n", delimiter=";", header=True)[0] == ["a,b", "c"]


@pytest.mark.parametrize(
    ("data", "rows", "issues"),
    [
        ("a,b\n1\n1,2,3\n1,2\n", [["1", ""], ["1", "2"], ["1", "2"]], {"short_rows": (1, 2), "long_rows": (1, 3)}),
        ("a,b\n\n1,2\n\n", [["1", "2"]], {"blank_lines": (2, 2)}),
        ('a,b\n"x"y,2\n3,4\n', [["3", "4"]], {"bad_quotes": (1, 2)}),
        ("a,b\nMünchen,€\n".encode("cp1252"), [["München", "€"]], {"not_utf8": (2, 2)}),
        (b"a,b\nM\xc3\xbcnchen,\xfc\n", [["München", "ü"]], {"not_utf8": (1, 2)}),
        (b"a,b\n\x81,1\n", [["\ufffd", "1"]], {"not_utf8": (1, 2)}),
        ('a,b\n5" pipe,1\n', [['5" pipe', "1"]], {}),
    ],
)
def test_what_can_be_read_is_read_and_counted(
    data: bytes | str, rows: list[list[str]], issues: dict[str, tuple[int, int]]
) -> None:
    _, found, counted = read(data)
    assert found == rows
    assert {kind: (issue["count"], issue["first_line"]) for kind, issue in counted.items()} == issues


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b'a,b\n1,2\n"never closed,4\n5,6\n', "a quote opened on line 3 or after is never closed"),
        (b"a,b\n1,\x00\n", "line 2 holds a NUL byte"),
        ("a,b\n1,2\n".encode("utf-16-le"), "line 1 holds a NUL byte"),
        (b"\x1f\x8b\x08\x00rest", "compressed with gzip"),
        (b"PK\x03\x04rest", "ZIP"),
        (b"%PDF-1.7", "PDF"),
        (b"a,b\n" + b"x" * (MAX_LINE + 2), "line 2 has more than"),
        (b"a,b\n1," + b"x" * 200_000 + b"\n", "a field of line 2 has over 131,072 characters"),
        (b'a,b\n1,"' + b"x\n" * 100_000, "a field of line 2 has over 131,072 characters"),
        (b"," * 20_000, "the first row has 20,001 fields"),
    ],
)
def test_what_cannot_be_read_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(NotCsv, match=reason):
        read(data)


def test_names_are_unique_and_short() -> None:
    assert column_names(["a", "", "a", "b" * 500], header=True) == ["a", "column 2", "a (2)", "b" * 100]


cell = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(st.integers(2, 5).flatmap(lambda width: st.lists(st.lists(cell, min_size=width, max_size=width))))
def test_what_the_csv_module_writes_is_read_back(rows: list[list[str]]) -> None:
    written = io.StringIO()
    names = [f"name {chr(97 + n)}" for n in range(len(rows[0]) if rows else 2)]
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows([names, *rows])
    found = read(written.getvalue(), delimiter=",", header=True)
    assert found == (names, rows, {})


@given(st.binary(max_size=500))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        names, rows, _ = read(data)
    except NotCsv:
        return
    assert all(len(row) == len(names) for row in rows)
