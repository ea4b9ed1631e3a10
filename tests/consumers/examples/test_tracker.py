"""The tracker where the gateway is not what it should be; `tests/e2e/test_campaign.py` has it where it is."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from consumers.examples.letters import Mark, sign
from tests.support.process import free_port
from tests.support.tracking import tracking

SECRET = "s" * 32


@pytest.fixture(scope="module")
def tracker() -> Iterator[httpx.Client]:
    nobody = f"http://127.0.0.1:{free_port()}"
    with tracking(SECRET, nobody, "gk_x") as url, httpx.Client(base_url=url) as client:
        yield client


def test_a_reader_is_sent_on_although_the_gateway_is_away(tracker: httpx.Client) -> None:
    answer = tracker.get("/click/" + sign(Mark("job_1", "may", "https://shop.test/?a=1"), SECRET))
    assert (answer.status_code, answer.headers["location"]) == (302, "https://shop.test/?a=1")
    picture = tracker.get("/open/" + sign(Mark("job_1", "may"), SECRET))
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/gif")
    assert picture.content.startswith(b"GIF89a")
    assert picture.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "token",
    ["x", sign(Mark("job_1", "may", "https://evil.test"), "t" * 32), sign(Mark("job_1", "may"), SECRET)],
    ids=["nonsense", "of somebody else", "of a picture"],
)
def test_a_link_that_is_none_of_ours_leads_nowhere(tracker: httpx.Client, token: str) -> None:
    assert tracker.get(f"/click/{token}").status_code == 404
