"""JSON answers."""

from __future__ import annotations

import msgspec
import pytest

from gateway.web.responses import json_response, rfc3339


@pytest.mark.parametrize(
    ("data", "body"),
    [(b'{"a":1.0}', b'{"a":1.0}'), (msgspec.Raw(b"[]"), b"[]"), ({"a": msgspec.Raw(b"1e400")}, b'{"a":1e400}')],
)
def test_json_goes_out_as_it_is(data: object, body: bytes) -> None:
    answer = json_response(data, 201, {"X": "y"})
    assert (answer.status_code, answer.body, answer.headers["x"]) == (201, body, "y")
    assert answer.headers["content-type"] == "application/json"


def test_times() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_700_000_000.5) == "2023-11-14T22:13:20.500Z"
