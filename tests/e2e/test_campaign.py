"""An e-mail campaign as a whole: gateway, worker, RabbitMQ, an SMTP server, the tracker, and a reader who clicks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.message import EmailMessage

import httpx
import pytest

from tests.e2e.stack import ROOT_KEY, Stack, client
from tests.support.mailserver import MailServer
from tests.support.tracking import tracking

SECRET = "a tracking secret of 32 characters"


@pytest.fixture
def smtp() -> Iterator[MailServer]:
    with MailServer() as running:
        yield running


def links(mail: EmailMessage) -> tuple[str, str]:
    """The link and the picture of a mail."""
    body = mail.get_body(("html",))
    assert body is not None
    html = body.get_content()
    return re.findall(r'href="([^"]+)"', html)[0], re.findall(r'src="([^"]+)"', html)[0]


async def test_what_is_sent_opened_and_clicked_is_told_to_the_campaign(product: Stack, smtp: MailServer) -> None:
    smtp.box.answers["gone@c.test"] = ["550 No such user"]
    product.extra = {"SMTP_URL": smtp.url, "MAIL_TRACK_SECRET": SECRET, "EXAMPLES_DATA": str(product.folder)}
    _, url = product.gateway()
    product.worker()
    people = [{"email": "ann@a.test", "name": "Ann"}, {"email": "bob@b.test"}, {"email": "gone@c.test"}]
    with tracking(SECRET, url, ROOT_KEY) as tracker:
        campaign = {
            "campaign": "spring",
            "sender": "news@shop.test",
            "subject": "For $name",
            "text": "Look: https://shop.test/tea?a=1&b=2",
            "recipients": [*people, {"email": "ANN@a.test"}],
            "track": tracker,
        }
        async with client(url) as http, httpx.AsyncClient() as reader:
            body = {"type": "mail.campaign", "input": campaign}
            job = (await http.post("/v1/jobs", json=body, headers={"Prefer": "wait=30"})).json()
            assert job["status"] == "succeeded", job
            mail = next(mail for mail in smtp.box.mails if mail["Subject"] == "For Ann")
            link, picture = links(mail)
            await reader.get(picture)
            assert (await reader.get(link)).headers["location"] == "https://shop.test/tea?a=1&b=2"
            history = (await http.get("/v1/channels/campaign:spring/history", params={"since": 0})).json()
    result = job["result"]
    assert (result["mails"], result["delivered"], result["failed"]) == (3, {"smtp": 2}, 1)
    assert result["failures"][0]["email"] == "gone@c.test"
    assert "550" in result["failures"][0]["reason"]
    assert sorted(smtp.box.recipients) == ["ann@a.test", "bob@b.test"]
    events = [publication["event"] for publication in history["publications"]]
    kinds = [event["type"] for event in events]
    assert sorted(kinds) == ["mail.bounced", "mail.clicked", "mail.opened", "mail.sent", "mail.sent"]
    clicked, opened = events[-1], events[-2]
    assert clicked["data"]["url"] == "https://shop.test/tea?a=1&b=2"
    assert clicked["data"]["mail"] == opened["data"]["mail"]
    assert clicked["data"]["mail"] in {event["data"]["mail"] for event in events if event["type"] == "mail.sent"}
