"""What a client is told that cannot even be looked at: an answer made from the first bytes of its request."""

from __future__ import annotations

import re

from gateway.fanout import sse
from gateway.fanout.origins import readable_by
from gateway.server.admission import TurnAway, unavailable
from gateway.settings import Settings

_STREAM = b"GET /v1/stream"
_ORIGIN = re.compile(rb"\r\norigin:[ \t]*([^\r\n]*?)[ \t]*\r\n", re.IGNORECASE)


def turn_away(settings: Settings) -> TurnAway:
    """See `server.admission.TurnAway`: a stream's reader gets a 200 with `gateway.bye`, everyone else a 503.

    Pages of other origins may read both as they may read any other answer: an `EventSource` that may not never comes
    back.
    """

    def answer(first: bytes, retry: float) -> bytes:
        origin = _ORIGIN.search(first.partition(b"\r\n\r\n")[0] + b"\r\n")
        allowed = readable_by(origin[1].decode("latin-1"), settings) if origin else []
        if not first.startswith(_STREAM):
            return unavailable(first, retry, _lines(allowed))
        head = _lines([*sse.HEADERS, *allowed])
        return b"HTTP/1.1 200 OK\r\n%bconnection: close\r\n\r\n%b" % (head, sse.bye("overload", retry))

    return answer


def _lines(headers: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)
