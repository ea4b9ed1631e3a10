"""What a client is told that cannot even be looked at: an answer made from the first bytes of its request."""

from __future__ import annotations

from gateway.fanout import sse
from gateway.server.admission import unavailable

_STREAM = b"GET /v1/stream"


def turn_away(first: bytes, retry: float) -> bytes:
    """See `server.admission.TurnAway`: a stream's reader gets a 200 with `gateway.bye`, everyone else a 503."""
    if not first.startswith(_STREAM):
        return unavailable(first, retry)
    head = b"".join(b"%b: %b\r\n" % header for header in sse.HEADERS)
    return b"HTTP/1.1 200 OK\r\n%bconnection: close\r\n\r\n%b" % (head, sse.bye("overload", retry))
