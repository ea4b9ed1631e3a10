"""What one cell of a CSV file is: a number, a yes or no, a date, a time, or just text. Pure."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from typing import Literal, NamedTuple

Kind = Literal["integer", "number", "boolean", "date", "datetime", "code", "string"]

_LONGEST = 40  # characters; anything longer is text, and is not worth a regular expression
_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,17})")
# A leading zero (00501) or more than 18 digits: an identifier, which as a number would lose digits.
_CODE = re.compile(r"[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?[eE][+-]?[0-9]{1,3})")
_DATE = re.compile(r"[0-9]{4}([-/])[0-9]{2}\1[0-9]{2}")
_DATETIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
    r"(?:Z|[+-][0-9]{2}:?[0-9]{2})?"
)
_BOOLEANS = {"true": 1, "yes": 1, "false": 0, "no": 0}
_FIRST_OF_A_NUMBER = frozenset("0123456789+-.")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Cell(NamedTuple):
    """A cell's kind and its value to calculate with: booleans 0 or 1, dates and times seconds since 1970.

    Text and codes (digits that are no number, such as a postcode) have the value 0. A time without a zone is
    read as UTC.
    """

    kind: Kind
    value: float


_TEXT = Cell("string", 0)


def read(text: str) -> Cell:
    """Classify a cell that is not empty and has no space around it."""
    if len(text) > _LONGEST:
        return _TEXT
    if text[0] not in _FIRST_OF_A_NUMBER:
        truth = _BOOLEANS.get(text.lower())
        return _TEXT if truth is None else Cell("boolean", truth)
    if _INTEGER.fullmatch(text):
        return Cell("integer", int(text))
    if _NUMBER.fullmatch(text):
        value = float(text)
        return Cell("number", value) if math.isfinite(value) else _TEXT
    if _CODE.fullmatch(text):
        return Cell("code", 0)
    return _moment(text)


def _moment(text: str) -> Cell:
    try:
        if _DATE.fullmatch(text):
            day = date.fromisoformat(text.replace("/", "-"))
            return Cell("date", (day.toordinal() - _EPOCH.toordinal()) * 86_400)
        if _DATETIME.fullmatch(text):
            moment = datetime.fromisoformat(text)
            aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
            return Cell("datetime", (aware - _EPOCH).total_seconds())
    except (ValueError, OverflowError):  # 2023-02-30 looks like a date and is none
        pass
    return _TEXT
