"""Attachments over HTTP: a folder and a bucket answer alike."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.events import new_id
from gateway.jobs.attachments import Attachment
from gateway.jobs.serving import attachment_response

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette would rather have another version of httpx
    from starlette.testclient import TestClient

BODY = bytes(range(256)) * 4


@pytest.fixture(params=["folder", "bucket"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestClient]:
    path = tmp_path / new_id("file_")
    path.write_bytes(BODY)

    async def blocks(start: int, end: int) -> AsyncIterator[bytes]:
        for at in range(start, end, 100):
            yield BODY[at : min(end, at + 100)]

    async def serve(asked: Request) -> Response:
        size = len(BODY)
        if request.param == "folder":
            return attachment_response(asked, Attachment("video/mp4", size, '"1"', path))
        return attachment_response(asked, Attachment("video/mp4", size, '"1"', blocks=blocks))

    with TestClient(Starlette(routes=[Route("/", serve)])) as opened:
        yield opened


def test_the_whole_file(client: TestClient) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer.content) == (200, BODY)
    headers = answer.headers
    assert (headers["content-type"], headers["content-length"], headers["accept-ranges"]) == (
        "video/mp4",
        "1024",
        "bytes",
    )
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "private, max-age=3600")
    assert headers["etag"].startswith('"')


def test_a_part_of_it_for_who_plays_a_film_from_the_middle(client: TestClient) -> None:
    answer = client.get("/", headers={"Range": "bytes=1000-"})
    assert (answer.status_code, answer.content) == (206, BODY[1000:])
    assert answer.headers["content-range"] == "bytes 1000-1023/1024"
    again = {"Range": "bytes=0-9", "If-Range": answer.headers["etag"]}
    assert client.get("/", headers=again).content == BODY[:10]
    assert client.get("/", headers={**again, "If-Range": '"another"'}).content == BODY


def test_a_part_behind_the_end(client: TestClient) -> None:
    answer = client.get("/", headers={"Range": "bytes=1024-"})
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */1024")


def test_only_the_head(client: TestClient) -> None:
    answer = client.head("/")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "1024")
