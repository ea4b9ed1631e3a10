"""Which errors are the same error: their type, and their message without what varies. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import Final, NamedTuple

import msgspec

MAX_TYPE: Final = 100  # characters
MAX_PATTERN: Final = 200  # characters
_READ: Final = 1000  # characters of a message that are looked at

# Tried at every place in this order: what is longer and more particular comes first.
_VARYING = re.compile(
    r"""
      (?P<uuid>\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b)
    | (?P<time>\b\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?(?:Z|[+-]\d{2}:?\d{2})?)?)
    | (?P<email>\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}\b)
    | (?P<id>\b[a-z]{1,10}_[0-9a-z]{26}\b)
    | (?P<hex>\b0[xX][0-9a-fA-F]+\b|\b(?=[a-fA-F]*\d)(?=\d*[a-fA-F])[0-9a-fA-F]{8,}\b)
    | (?P<n>(?<![A-Za-z_])\d+(?:[.,]\d+)*|\d{3,})
    """,
    re.VERBOSE,
)


class Group(NamedTuple):
    """Errors that are the same.

    Attributes:
        id: 12 hex digits, the same everywhere and always.
        error_type: the error's type.
        json: `{"id", "error_type", "message"}`, the message with placeholders for what varies.
    """

    id: str
    error_type: str
    json: str


def pattern(message: str) -> str:
    """Put placeholders for numbers, ids, times, addresses and hexadecimal, on one line of at most `MAX_PATTERN`."""
    text = _VARYING.sub(lambda found: f"<{found.lastgroup}>", message[:_READ])
    return " ".join(text.split())[:MAX_PATTERN]


def group_of(error_type: str, message: str) -> Group:
    """Return the group of an error."""
    name = "".join(error_type.split())[:MAX_TYPE] or "Error"
    said = pattern(message)
    digest = hashlib.blake2b(f"{name}\n{said}".encode("utf-8", "replace"), digest_size=6).hexdigest()
    fields = {"id": digest, "error_type": clean(name), "message": clean(said)}
    return Group(digest, clean(name), msgspec.json.encode(fields).decode())


def clean(text: str) -> str:
    """Return a text that UTF-8 can hold: without lone surrogates."""
    return text.encode("utf-8", "replace").decode()
