"""Byte ranges of a request (RFC 9110 section 14). Pure."""

from __future__ import annotations

import re
from typing import Final

_ONE: Final = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*\Z", re.ASCII | re.IGNORECASE)


class NotSatisfiable(Exception):
    """No byte of the file is in the range: answer 416."""


def wanted(range_header: str | None, if_range: str | None, etag: str, size: int) -> tuple[int, int] | None:
    """Return the bytes to send, from the first to before the last; None: all of them, with status 200.

    Several ranges at once, other units and what cannot be read are ignored, which section 14.2 allows. `If-Range` holds
    for the strong ETag alone, never for a date (section 13.1.5).

    Raises:
        NotSatisfiable: the range is behind the end.
    """
    found = _ONE.match(range_header or "")
    if found is None or (if_range is not None and if_range != etag):
        return None
    first, last = found.groups()
    if not first and not last:
        return None
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
    if start >= end:
        raise NotSatisfiable
    return start, end
