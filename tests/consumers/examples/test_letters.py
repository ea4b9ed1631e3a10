from __future__ import annotations

import re
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import GiveUp
from consumers.examples.inputs import parse
from consumers.examples.letters import Letter, Mark, compose, read, sign
from consumers.examples.pace import MAX_DOMAINS, Pace

SECRET = "s" * 32
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
LETTER: dict[str, Any] = {"sender": "news@shop.test", "to": "ann@example.com", "subject": "Grüße", "text": "Hello"}


def written(**change: Any) -> Any:
    letter = parse(LETTER | change, Letter)
    return message_from_bytes(compose(letter, "job_1", "job_1-1-smtp", NOW, SECRET).as_bytes(), policy=default)


def bodies(mail: Any) -> list[str]:
    return [part.get_content().replace("\r\n", "\n") for part in mail.iter_parts()]


def test_headers_and_both_bodies() -> None:
    mail = written(text="Hällo <Ann>\nhow are you?\n\nBye & so on", unsubscribe="https://shop.test/out?u=1")
    assert (mail["From"], mail["To"], mail["Subject"]) == ("news@shop.test", "ann@example.com", "Grüße")
    assert (mail["Message-ID"], mail["Date"]) == ("<job_1-1-smtp@shop.test>", "Mon, 05 Jan 2026 12:00:00 +0000")
    assert mail["List-Unsubscribe"] == "<https://shop.test/out?u=1>"
    text, html = bodies(mail)
    assert text == "Hällo <Ann>\nhow are you?\n\nBye & so on\n"
    assert "<p>Hällo &lt;Ann&gt;<br>\nhow are you?</p>\n<p>Bye &amp; so on</p>" in html
    assert "<img" not in html


def test_the_message_is_plain_ascii_whatever_the_server_can_do() -> None:
    letter = parse(LETTER | {"text": "Grüße, 世界 " * 100}, Letter)
    assert compose(letter, "m", "k", NOW).as_bytes().isascii()


def test_links_lead_to_where_they_say_if_nothing_is_counted() -> None:
    _, html = bodies(written(text="See https://a.test/?x=1&y=2."))
    assert 'See <a href="https://a.test/?x=1&amp;y=2">https://a.test/?x=1&amp;y=2</a>.' in html


def test_counted_links_stand_for_mail_campaign_and_target() -> None:
    mail = written(text="https://a.test/1 and https://b.test/2", campaign="may", track="https://t.test/")
    text, html = bodies(mail)
    assert text == "https://a.test/1 and https://b.test/2\n"
    clicks = [read(token, SECRET) for token in re.findall(r'href="https://t.test/click/([^"]+)"', html)]
    assert clicks == [Mark("job_1", "may", "https://a.test/1"), Mark("job_1", "may", "https://b.test/2")]
    (opened,) = re.findall(r'<img src="https://t.test/open/([^"]+)"', html)
    assert read(opened, SECRET) == Mark("job_1", "may")


@pytest.mark.parametrize("token", ["", "x", "a.b.c", sign(Mark("m", "c", "https://evil.test"), "other" * 8)])
def test_a_token_of_somebody_else_is_none(token: str) -> None:
    assert read(token, SECRET) is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"to": "nobody"}, "to"),
        ({"to": "a@b.test, c@d.test"}, "to"),
        ({"to": "a@b.test\nBcc: c@d.test"}, "to"),
        ({"sender": "a@b.test>"}, "sender"),
        ({"subject": "a\nBcc: c@d.test"}, "subject"),
        ({"subject": ""}, "subject"),
        ({"text": "x" * 20_001}, "text"),
        ({"unsubscribe": "https://a.test>\nX: y"}, "unsubscribe"),
        ({"track": "javascript:alert(1)"}, "track"),
        ({"campaign": "a b"}, "campaign"),
    ],
)
def test_a_letter_that_breaks_a_rule(change: dict[str, Any], field: str) -> None:
    with pytest.raises(GiveUp, match=f"input.{field} is not valid"):
        parse(LETTER | change, Letter)


def test_a_burst_and_then_the_pace() -> None:
    pace = Pace(rate=2, burst=3)
    assert [pace.reserve("a", 10, 60) for _ in range(5)] == [0, 0, 0, 0.5, 1.0]
    assert pace.reserve("b", 10, 60) == 0
    assert pace.wait("a", 10) == 1.5
    assert pace.reserve("a", 10, 1.4) is None
    assert pace.wait("a", 10) == 1.5
    assert [pace.reserve("a", 100, 60) for _ in range(4)] == [0, 0, 0, 0.5]


@given(rate=st.integers(1, 50), burst=st.integers(1, 10), gaps=st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_no_second_has_more_than_rate_and_burst(rate: int, burst: int, gaps: list[float]) -> None:
    pace, now, sent = Pace(rate, burst), 1000.0, []
    for gap in gaps:
        now += gap
        wait = pace.reserve("a", now, 1e9)
        assert wait is not None
        sent.append(now + wait)
    for start in sent:
        assert sum(start <= at < start + 1 for at in sent) <= rate + burst + 1


@pytest.mark.parametrize("apart", [0, 10])
def test_what_is_remembered_is_bounded(apart: int) -> None:
    pace = Pace(1, 1)
    for number in range(2 * MAX_DOMAINS + 2):
        pace.reserve(f"d{number}", number * apart, 1)
    assert len(pace._due) <= MAX_DOMAINS
