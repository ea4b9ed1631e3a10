"""JSON answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
from starlette.responses import Response

JSON = "application/json"


def json_response(
    data: object, status: int = 200, headers: Mapping[str, str] | None = None, *, media_type: str = JSON
) -> Response:
    """Answer JSON.

    Args:
        data: `bytes` (and `msgspec.Raw`) are JSON already and go out as they are; all else msgspec encodes.
        status: the HTTP status.
        headers: further headers.
        media_type: instead of `application/json`.
    """
    body = bytes(data) if isinstance(data, bytes | msgspec.Raw) else msgspec.json.encode(data)
    return Response(body, status, headers, media_type)


def rfc3339(seconds: float) -> str:
    """Write a unix time as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
