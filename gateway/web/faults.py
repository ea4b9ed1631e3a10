"""Name every wrong field of a JSON document. Pure.

msgspec stops at the first fault; here the document is taken apart along its type, part by part, so that a
caller learns all of them at once, each with a JSON pointer (RFC 6901) and the rule in plain words.
"""

from __future__ import annotations

import collections.abc
import enum
import re
import types
import typing
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from gateway.errors import FieldError

MAX_FAULTS = 100
MAX_VALUES = 20_000  # looked at one by one; a long list costs no more than that, then its first fault is named

_PATH = re.compile(r" - at `(?:key` in `)?(?P<path>\$.*)`\Z", re.DOTALL)
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+)\]|\[\.\.\.\]")
_SEQUENCES = (list, set, frozenset, collections.abc.Sequence, collections.abc.MutableSequence)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_EMPTY = (types.NoneType, msgspec.UnsetType)


def name_faults(document: bytes, type_: Any) -> list[FieldError]:  # noqa: ANN401 - any type msgspec decodes
    """List what is wrong with a document that does not fit a type, at most `MAX_FAULTS`.

    Args:
        document: well-formed compact JSON.
        type_: a type msgspec can decode into.
    """
    return list(islice(_faults(document, type_, "", iter(range(MAX_VALUES))), MAX_FAULTS))


def pointer_token(name: str) -> str:
    """Write a name as one part of a JSON pointer, with the slash before it (RFC 6901 section 3)."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _faults(raw: bytes, type_: Any, pointer: str, budget: Iterator[int]) -> Iterator[FieldError]:  # noqa: ANN401
    if next(budget, None) is None:
        return
    try:
        msgspec.json.decode(raw, type=type_)
    except msgspec.ValidationError as error:
        inner = _inside(raw, _plain(type_), pointer, budget)
        first = next(inner, None)
        if first is None:
            yield _fault(str(error), type_, pointer)
        else:
            yield first
            yield from inner


def _plain(type_: Any) -> Any:  # noqa: ANN401 - any type
    """Take off `Annotated` and `| None`: what a value that is there has to be."""
    if typing.get_origin(type_) is typing.Annotated:
        return _plain(typing.get_args(type_)[0])
    if typing.get_origin(type_) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(type_) if member not in _EMPTY]
        if len(members) == 1:
            return _plain(members[0])
    return type_


def _inside(raw: bytes, plain: Any, pointer: str, budget: Iterator[int]) -> Iterator[FieldError]:  # noqa: ANN401
    origin, arguments = typing.get_origin(plain) or plain, typing.get_args(plain)
    if raw.startswith(b"{"):
        if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
            yield from _in_struct(raw, plain, pointer, budget)
        elif origin in _MAPPINGS and arguments:
            yield from _in_mapping(raw, arguments, pointer, budget)
    elif raw.startswith(b"[") and arguments and (origin in _SEQUENCES or arguments[1:] == (...,)):
        items = msgspec.json.decode(raw, type=list[msgspec.Raw])
        for index, item in enumerate(items if len(items) <= MAX_VALUES else ()):
            yield from _faults(bytes(item), arguments[0], f"{pointer}/{index}", budget)


def _in_struct(raw: bytes, struct: type[msgspec.Struct], pointer: str, budget: Iterator[int]) -> Iterator[FieldError]:
    config = struct.__struct_config__
    if config.array_like or config.tag is not None:
        return
    values = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    for field in msgspec.structs.fields(struct):
        place = pointer + pointer_token(field.encode_name)
        value = values.pop(field.encode_name, None)
        if value is not None:
            yield from _faults(bytes(value), field.type, place, budget)
        elif field.required:
            yield FieldError(place, "is required")
    if config.forbid_unknown_fields:
        for name in values:
            yield FieldError(pointer + pointer_token(name), "is not a known field")


def _in_mapping(raw: bytes, arguments: tuple[Any, ...], pointer: str, budget: Iterator[int]) -> Iterator[FieldError]:
    values = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    for name, value in values.items() if len(values) <= MAX_VALUES else ():
        place = pointer + pointer_token(name)
        rule = _name_rule(name, arguments[0])
        if rule:
            yield FieldError(place, f"the name {rule}")
        yield from _faults(bytes(value), arguments[1], place, budget)


def _name_rule(name: str, type_: Any) -> str | None:  # noqa: ANN401 - any type
    try:
        msgspec.json.decode(msgspec.json.encode({name: None}), type=dict[type_, None])
    except msgspec.ValidationError as error:
        return _rule(_PATH.sub("", str(error)), type_)
    return None


def _fault(message: str, type_: Any, pointer: str) -> FieldError:  # noqa: ANN401 - any type
    found = _PATH.search(message)
    rule = _rule(_PATH.sub("", message), type_)
    return FieldError(pointer + _pointer(found["path"] if found else "$"), rule)


def _pointer(path: str) -> str:
    """Translate msgspec's `$.a[0].b`; it says `[...]` for a name it does not know, where we stop."""
    pointer = ""
    for step in _STEP.finditer(path):
        if step["name"] is None and step["index"] is None:
            break
        pointer += pointer_token(step["name"] or step["index"])
    return pointer


# --- msgspec's messages in plain words ---

_NAMES = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "null": "null",
    "array": "an array",
    "object": "an object",
    "datetime": "an RFC 3339 time",
    "uuid": "a UUID",
    "bytes": "base64 text",
}
_UNITS = {"str": "characters", "array": "items", "object": "members", "bytes": "bytes"}
_BOUNDS = {
    ">=": "must be at least {}",
    "<=": "must be at most {}",
    ">": "must be greater than {}",
    "<": "must be less than {}",
}
_LENGTHS = {">=": "must have at least {} {}", "<=": "must have at most {} {}"}

_WRONG_TYPE = re.compile(r"Expected `(?P<want>[^`]+)`(?:, got `(?P<got>[^`]+)`)?\Z")
_LENGTH = re.compile(r"Expected `(?P<type>\w+)` of length (?P<sign>[<>]=) (?P<bound>\d+)\Z")
_BOUND = re.compile(r"Expected `\w+` (?P<sign>[<>]=?) (?P<bound>\S+)\Z")
_PATTERN = re.compile(r"Expected `str` matching regex (?P<regex>.+)\Z", re.DOTALL)
_MULTIPLE = re.compile(r"Expected `\w+` that's a multiple of (?P<bound>\S+)\Z")


def _rule(message: str, type_: Any) -> str:  # noqa: ANN401, PLR0911 - any type; one return a message
    if message.startswith("Invalid enum value"):
        choices = _choices(_plain(type_))
        return f"must be one of: {', '.join(choices)}" if choices else "is not one of the allowed values"
    if message.endswith("out of range"):
        return "is a number out of range"
    if found := _LENGTH.match(message):
        return _LENGTHS[found["sign"]].format(found["bound"], _UNITS.get(found["type"], "items"))
    if found := _BOUND.match(message):
        return _BOUNDS[found["sign"]].format(found["bound"])
    if found := _PATTERN.match(message):
        described = _description(type_)
        return f"must be {described}" if described else f"must match {found['regex']}"
    if found := _MULTIPLE.match(message):
        return f"must be a multiple of {found['bound']}"
    if found := _WRONG_TYPE.match(message):
        return _wrong_type(found["want"], found["got"])
    return f"is not valid: {message.replace('`', '')}"


def _wrong_type(want: str, got: str | None) -> str:
    wanted = " or ".join(_NAMES.get(name, name) for name in want.split(" | "))
    if got is None:
        return f"must be {wanted}"
    is_fraction = got == "float" and "float" not in want
    return f"must be {wanted}, not {'a fraction' if is_fraction else _NAMES.get(got, got)}"


def _description(type_: Any) -> str | None:  # noqa: ANN401 - any type
    """What a type's `msgspec.Meta` says of it; reads better than a regular expression."""
    if typing.get_origin(type_) is not typing.Annotated:
        return next(filter(None, map(_description, typing.get_args(type_))), None)
    metas = [meta for meta in type_.__metadata__ if isinstance(meta, msgspec.Meta)]
    return next((meta.description for meta in metas if meta.description), None)


def _choices(plain: Any) -> list[str]:  # noqa: ANN401 - any type
    if typing.get_origin(plain) is typing.Literal:
        return [str(value) for value in typing.get_args(plain)]
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return [str(member.value) for member in plain]
    return []
