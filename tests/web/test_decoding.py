"""JSON from outside: kept to the byte, refused when it is none, every wrong field named."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.errors import BadRequest, FieldError, InvalidFields
from gateway.web.decoding import MAX_DEPTH, compact, decode, parse
from gateway.web.faults import MAX_FAULTS, MAX_VALUES, name_faults, pointer_token

Word = Annotated[str, msgspec.Meta(min_length=2, max_length=3, pattern="^a")]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Leaf(msgspec.Struct, forbid_unknown_fields=True):
    n: Annotated[int, msgspec.Meta(ge=1, le=9)]
    s: str | None = None


class Tree(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    data: msgspec.Raw
    leaf: Leaf | None = None
    leaves: list[Leaf] = []
    by_name: dict[Word, Leaf] = {}
    word: Word = "ab"
    colour: Literal["red", "blue"] = "red"
    enum: Colour = Colour.RED
    either: int | str = 1
    ratio: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    step: Annotated[int, msgspec.Meta(multiple_of=5)] = 5
    few: Annotated[tuple[int, ...], msgspec.Meta(max_length=2)] = ()
    flag: bool = False
    colours: list[Annotated[str, msgspec.Meta(pattern="^[a-z]$", description="one lower-case letter")]] | None = None
    renamed: int = msgspec.field(default=0, name="re/na~med")


class Values(msgspec.Struct):
    data: msgspec.Raw


class Guarded(msgspec.Struct):
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is over high")


def good(**changes: object) -> bytes:
    return json.dumps({"name": "x", "data": 1, **changes}).encode()


def faults(document: bytes, type_: Any = Tree) -> dict[str, str]:
    with pytest.raises(InvalidFields) as caught:
        decode(document, type_)
    return dict(caught.value.errors)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    "value",
    [b"1.0", b"1e400", b"-0", b"1180591620717411303424", b"9" * 4000, b"[]", b"{}", rb'"\u0041\/ \n  x"', b"null"],
)
def test_raw_values_survive_to_the_byte(value: bytes) -> None:
    document = b' { "data" :\r\n\t' + value + b" } "
    assert bytes(decode(document, Values).data) == value


def test_whitespace_outside_of_strings_goes_once() -> None:
    raw = decode(b'{"data": [ 1.0 , {"a b" : "c  d\\" , "} ]\n}', Values).data
    assert bytes(raw) == b'[1.0,{"a b":"c  d\\" , "}]'


@given(JSON, st.sampled_from([None, 1, "\t"]), st.sampled_from([True, False]))
def test_compact_is_what_json_says(value: object, indent: int | str | None, ascii_only: object) -> None:
    spread = json.dumps(value, indent=indent, ensure_ascii=bool(ascii_only))
    expected = json.dumps(value, separators=(",", ":"), ensure_ascii=bool(ascii_only))
    try:
        spread.encode()
    except UnicodeEncodeError:
        return
    try:
        assert compact(spread.encode()) == expected.encode()
    except BadRequest:
        assert r"\ud" in spread  # a lone surrogate


@given(st.binary(max_size=40) | st.text('[]{}:,"\\u d80 1.e-', max_size=20).map(str.encode))
def test_accepts_exactly_json(data: bytes) -> None:
    try:
        text = data.decode()
        json.dumps(json.loads(text, parse_constant=pytest.fail), ensure_ascii=False).encode()
        is_json = True
    except (ValueError, pytest.fail.Exception):
        is_json = False
    try:
        compact(data)
        accepted = True
    except BadRequest:
        accepted = False
    assert accepted == is_json


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "ends before it is complete (byte 0)"),
        (b'{"a":1', "ends before it is complete (byte 6)"),
        (b'{"a":1}}', "trailing characters (byte 8)"),
        (b'{"a":NaN}', "invalid character (byte 5)"),
        (b"[Infinity]", "(byte 1)"),
        (b"[-Infinity]", "(byte 2)"),
        (b"\xef\xbb\xbf1", "(byte 0)"),
        (b'["\xff"]', "not UTF-8 (byte 2)"),
        (b'["\xed\xa0\x80"]', "not UTF-8 (byte 2)"),
        (rb'["\ud800"]', "surrogate in it has no partner"),
        (rb'["\ud800a"]', "(byte"),
        (rb'["\udc00"]', "surrogate"),
        (b'["a\nb"]', "(byte 3)"),
        (b"[01]", "(byte"),
        (b"[1,]", "(byte"),
    ],
)
def test_says_where_it_is_malformed(data: bytes, detail: str) -> None:
    with pytest.raises(BadRequest) as caught:
        compact(data)
    assert detail in caught.value.detail


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, MAX_DEPTH * 2 + 1, 100_000])
@pytest.mark.parametrize("pair", [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"[":', b"}]")])
def test_a_depth_bomb_is_refused(depth: int, pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(BadRequest, match="nested deeper"):
        compact(pair[0] * depth + b"1" + pair[1] * depth)


def test_depth_is_counted_not_brackets() -> None:
    deep = b"[" * MAX_DEPTH + b'"]]["' + b"]" * MAX_DEPTH
    assert compact(deep) == deep
    wide = b"[" + b",".join([b'{"[[[":[[{}]],"\\\\":"\\"["}'] * 500) + b"]"
    assert compact(wide) == wide
    text = b'["' + b"[" * 5000 + b'"]'
    assert compact(text) == text


@given(st.lists(st.sampled_from("[{"), max_size=2 * MAX_DEPTH).filter(len), st.integers(0, 200))
def test_depth_is_exact(opened: list[str], padding: int) -> None:
    closed = "".join("]" if bracket == "[" else "}" for bracket in reversed(opened))
    inner = "".join('{"k":' if bracket == "{" else "[" for bracket in opened) + "1" + closed
    document = f"[{'[],' * padding}{inner}]".encode()
    if len(opened) + 1 > MAX_DEPTH:
        with pytest.raises(BadRequest, match="nested deeper"):
            compact(document)
    else:
        assert compact(document) == document


def test_the_last_of_a_repeated_name_counts() -> None:
    assert bytes(decode(b'{"data":1,"data":2}', Values).data) == b"2"


def test_parse_gives_plain_values() -> None:
    assert parse(b'{"a":[1,2.5,null]}') == {"a": [1, 2.5, None]}
    with pytest.raises(InvalidFields):
        parse(b"1e400")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": 1}, {"/name": "must be a string, not an integer"}),
        ({"name": None}, {"/name": "must be a string, not null"}),
        (
            {"leaf": {"n": 0, "s": 1}},
            {"/leaf/n": "must be at least 1", "/leaf/s": "must be a string or null, not an integer"},
        ),
        ({"leaf": {}}, {"/leaf/n": "is required"}),
        ({"leaf": []}, {"/leaf": "must be an object or null, not an array"}),
        ({"leaf": {"n": 1.5}}, {"/leaf/n": "must be an integer, not a fraction"}),
        (
            {"leaves": [{"n": 1}, {"n": 10}, {"n": "x", "zz": 1}]},
            {
                "/leaves/1/n": "must be at most 9",
                "/leaves/2/n": "must be an integer, not a string",
                "/leaves/2/zz": "is not a known field",
            },
        ),
        ({"leaves": 3}, {"/leaves": "must be an array, not an integer"}),
        (
            {"by_name": {"ab": {"n": 0}, "a": {"n": 1}}},
            {
                "/by_name/ab/n": "must be at least 1",
                "/by_name/a": "the name must have at least 2 characters",
            },
        ),
        ({"word": "a"}, {"/word": "must have at least 2 characters"}),
        ({"word": "abcd"}, {"/word": "must have at most 3 characters"}),
        ({"word": "bb"}, {"/word": "must match '^a'"}),
        ({"colours": ["a", "green"]}, {"/colours/1": "must be one lower-case letter"}),
        ({"colour": "green"}, {"/colour": "must be one of: red, blue"}),
        ({"enum": "green"}, {"/enum": "must be one of: red, blue"}),
        ({"colour": 1}, {"/colour": "must be a string, not an integer"}),
        ({"either": None}, {"/either": "must be an integer or a string, not null"}),
        ({"ratio": 0}, {"/ratio": "must be greater than 0.0"}),
        ({"ratio": 1}, {"/ratio": "must be less than 1.0"}),
        ({"step": 1}, {"/step": "must be a multiple of 5"}),
        ({"few": [1, 2, 3]}, {"/few": "must have at most 2 items"}),
        ({"few": [1, "2"]}, {"/few/1": "must be an integer, not a string"}),
        ({"flag": 1}, {"/flag": "must be true or false, not an integer"}),
        ({"re/na~med": "x"}, {"/re~1na~0med": "must be an integer, not a string"}),
        ({"zz": 1, "a/b": 2}, {"/zz": "is not a known field", "/a~1b": "is not a known field"}),
        (
            {"name": 1, "flag": "x", "zz": 1},
            {
                "/name": "must be a string, not an integer",
                "/flag": "must be true or false, not a string",
                "/zz": "is not a known field",
            },
        ),
    ],
)
def test_every_wrong_field_is_named(change: dict[str, object], expected: dict[str, str]) -> None:
    assert faults(good(**change)) == expected


def test_missing_fields_are_named() -> None:
    assert faults(b"{}") == {"/name": "is required", "/data": "is required"}


def test_a_document_of_the_wrong_kind() -> None:
    assert faults(b"[]") == {"": "must be an object, not an array"}
    assert faults(b'[1,"a",2,null]', list[int]) == {
        "/1": "must be an integer, not a string",
        "/3": "must be an integer, not null",
    }


def test_a_number_out_of_range() -> None:
    assert faults(b'{"name":"x","data":1e400,"ratio":1e400}') == {"/ratio": "is a number out of range"}


def test_a_rule_of_the_struct_itself() -> None:
    assert faults(b'{"low":2,"high":1}', Guarded) == {"": "is not valid: low is over high"}


def test_the_list_of_faults_is_bounded() -> None:
    document = json.dumps(["x"] * (MAX_FAULTS * 3)).encode()
    assert len(name_faults(document, list[int])) == MAX_FAULTS


def test_of_a_very_long_list_the_first_fault_is_named() -> None:
    rows: list[list[Any]] = [[0] * (MAX_VALUES + 5), ["x"], [None]]
    rows[0][-3:] = "abc"
    assert name_faults(json.dumps(rows).encode(), list[list[int]]) == [
        FieldError(f"/0/{MAX_VALUES + 2}", "must be an integer, not a string"),
        FieldError("/1/0", "must be an integer, not a string"),
        FieldError("/2/0", "must be an integer, not null"),
    ]


def test_the_work_of_naming_faults_is_bounded() -> None:
    rows: list[list[Any]] = [[*([0] * (MAX_VALUES - 10)), "x"]] * 5
    assert [fault.pointer for fault in name_faults(json.dumps(rows).encode(), list[list[int]])] == [
        f"/0/{MAX_VALUES - 10}",
        f"/1/{MAX_VALUES - 10}",
    ]


@given(JSON)
def test_a_refusal_always_names_something(value: object) -> None:
    document = json.dumps(value).encode()
    assume(b"\\ud" not in document)  # a surrogate pair's half makes it malformed
    if isinstance(value, dict) and {"name", "data"} <= value.keys():
        return
    found = name_faults(compact(document), Tree)
    assert found
    assert all(isinstance(fault, FieldError) and fault.detail and "`" not in fault.detail for fault in found)


@given(st.text())
def test_pointer_tokens_can_be_read_back(name: str) -> None:
    token = pointer_token(name)
    assert token[0] == "/"
    assert "/" not in token[1:]
    assert token[1:].replace("~1", "/").replace("~0", "~") == name
