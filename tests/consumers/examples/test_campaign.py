"""`mail.campaign` and its mails through a worker; without an SMTP server each job keeps its mail."""

from __future__ import annotations

import email
from collections.abc import AsyncIterator, Iterator
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from consumers.examples import mail
from consumers.registry import load
from tests.consumers.support import TENANT, Bench

CAMPAIGN = {
    "campaign": "may",
    "sender": "news@shop.test",
    "subject": "For $name",
    "text": "Dear $name ($email), tea is $$5 and $unknown",
}


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("SMTP_URL", "MAIL_PER_DOMAIN", "MAIL_TRACK_SECRET"):
        monkeypatch.delenv(name, raising=False)
    mail.pace.cache_clear()
    yield
    mail.pace.cache_clear()


@pytest.fixture
async def campaign(bench: Bench) -> AsyncIterator[Bench]:
    tasks = [load("consumers.examples")[name]._replace(pool=bench.pool) for name in ("mail.campaign", "mail.send")]
    async with bench.working(*tasks):
        yield bench


async def run(bench: Bench, value: dict[str, Any], status: str = "succeeded") -> dict[str, Any]:
    return await bench.until(await bench.submit("mail.campaign", value=CAMPAIGN | value), status, 30)


async def test_everybody_gets_one_mail_of_their_own(campaign: Bench) -> None:
    people = [{"email": "Ann@a.test", "name": "Ann"}, {"email": "bob@a.test"}, {"email": "ann@a.test", "name": "Twice"}]
    job = await run(campaign, {"recipients": people})
    assert job["result"] == {
        "channel": "campaign:may",
        "mails": 2,
        "delivered": {"kept": 2},
        "failed": 0,
        "failures": [],
    }
    kept = [
        email.message_from_bytes(path.read_bytes(), policy=default)
        for path in Path(campaign.settings.attachments_dir).rglob("*")
        if path.is_file() and b"Message-ID" in path.read_bytes()
    ]
    assert sorted((mail["To"], mail["Subject"]) for mail in kept) == [
        ("Ann@a.test", "For Ann"),
        ("bob@a.test", "For bob@a.test"),
    ]
    text = next(mail for mail in kept if mail["To"] == "Ann@a.test").get_body(("plain",))
    assert text is not None
    assert text.get_content().strip() == "Dear Ann (Ann@a.test), tea is $5 and $unknown"


async def test_a_mail_that_fails_does_not_end_the_campaign(campaign: Bench) -> None:
    people = [{"email": f"u{number}@a.test", "name": "n" * (100 if number % 2 else 1)} for number in range(50)]
    job = await run(campaign, {"recipients": people, "subject": "$name " * 4})  # over 200 characters for some
    result = job["result"]
    assert (result["mails"], result["delivered"], result["failed"]) == (50, {"kept": 25}, 25)
    assert [failure["email"] for failure in result["failures"]] == [f"u{number}@a.test" for number in range(1, 40, 2)]
    assert "input.subject is not valid" in result["failures"][0]["reason"]
    failed = await campaign.job(result["failures"][0]["job"])
    assert (failed["type"], failed["status"]) == ("mail.send", "failed")
    history = await campaign.channels.history(TENANT, "campaign:may", since=None, limit=0)
    assert history.offset == 25  # one mail.sent for each


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({}, 'give one of "recipients" and "sample"'),
        ({"sample": 1, "recipients": [{"email": "a@a.test"}]}, 'give one of "recipients" and "sample"'),
        ({"sample": 1001}, "input.sample is not valid"),
        ({"recipients": [{"email": "a"}]}, "input.recipients[0].email is not valid"),
        ({"recipients": [{"email": "a@a.test", "name": "a\nBcc: b@a.test"}]}, "input.recipients[0].name is not valid"),
        ({"sample": 1, "track": "https://t.test"}, "needs MAIL_TRACK_SECRET, at least 32 characters"),
    ],
)
async def test_an_input_that_breaks_a_rule(campaign: Bench, change: dict[str, Any], rule: str) -> None:
    job = await run(campaign, change, "failed")
    assert (job["error"]["type"], job["attempt"]) == ("GiveUp", 1)
    assert rule in job["error"]["message"]
