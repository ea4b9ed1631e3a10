"""Query parameters and opaque cursors. Every wrong parameter is named as `?name`."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec
from starlette.datastructures import QueryParams

from gateway.errors import FieldError, InvalidFields

T = TypeVar("T")

DEFAULT_LIMIT = 20
MAX_LIMIT = 1000
MAX_CURSOR = 1024
MAX_TEXT = 256

_INTEGER = re.compile(r"-?[0-9]{1,18}\Z")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


class Page(NamedTuple):
    """Which part of a list is asked for: at most `limit` items, after what `cursor` says (None: the start)."""

    limit: int
    cursor: str | None


class Query:
    """A request's query parameters; collects what is wrong until `check` raises it.

    Each reader returns the parameter, or its default when it is absent or wrong.
    """

    def __init__(self, params: QueryParams) -> None:
        self._params = params
        self._errors: list[FieldError] = []

    def check(self) -> None:
        """Raise InvalidFields if a parameter read so far was wrong."""
        if self._errors:
            raise InvalidFields(errors=self._errors)

    def fault(self, name: str, detail: str) -> None:
        """Note that a parameter is wrong."""
        self._errors.append(FieldError(f"?{name}", detail))

    def text(self, name: str, *, maximum: int = MAX_TEXT) -> str | None:
        """Read text of at most `maximum` characters."""
        values = self._params.getlist(name)
        if not values:
            return None
        if len(values) > 1:
            self.fault(name, "must be given once")
        elif len(values[0]) > maximum:
            self.fault(name, f"must have at most {maximum} characters")
        else:
            return values[0]
        return None

    def texts(self, name: str, *, count: int, maximum: int = MAX_TEXT) -> list[str]:
        """Read a repeatable parameter: at most `count` times, each at most `maximum` characters."""
        values = self._params.getlist(name)
        if len(values) > count:
            self.fault(name, f"must be given at most {count} times")
        elif any(len(value) > maximum for value in values):
            self.fault(name, f"must have at most {maximum} characters")
        else:
            return values
        return []

    def integer(self, name: str, default: int, *, minimum: int, maximum: int) -> int:
        """Read an integer of `minimum` to `maximum`."""
        text = self.text(name)
        if text is None:
            return default
        if _INTEGER.match(text) and minimum <= int(text) <= maximum:
            return int(text)
        self.fault(name, f"must be an integer of {minimum} to {maximum}")
        return default

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Read `true`, `1`, `false` or `0`."""
        text = self.text(name)
        if text is not None and text.lower() not in _TRUTH:
            self.fault(name, "must be true or false")
        return _TRUTH.get(text.lower(), default) if text is not None else default

    def choice(self, name: str, choices: Sequence[str]) -> str | None:
        """Read one of a few words."""
        text = self.text(name)
        if text is not None and text not in choices:
            self.fault(name, f"must be one of: {', '.join(choices)}")
            return None
        return text

    def page(self, *, default: int = DEFAULT_LIMIT, maximum: int = MAX_LIMIT) -> Page:
        """Read `limit` and `cursor`."""
        limit = self.integer("limit", default, minimum=1, maximum=maximum)
        return Page(limit, self.text("cursor", maximum=MAX_CURSOR) or None)


def encode_cursor(value: object) -> str:
    """Write what the next page starts from as opaque text: base64url of JSON, no padding."""
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()


def decode_cursor(cursor: str, type_: type[T]) -> T:
    """Read what `encode_cursor` wrote.

    Raises:
        InvalidFields: it is not one of ours; names `?cursor`.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        data = base64.b64decode(padded, altchars=b"-_", validate=True)
        return msgspec.json.decode(data, type=type_)
    except (binascii.Error, UnicodeError, msgspec.DecodeError, RecursionError):
        error = FieldError("?cursor", "must be a cursor from an earlier answer")
        raise InvalidFields(errors=[error]) from None


def page_body(items: Sequence[object], next_cursor: str | None) -> Mapping[str, object]:
    """Shape a list's answer: `{"items": […], "next_cursor": "…" or null}`."""
    return {"items": items, "next_cursor": next_cursor}
