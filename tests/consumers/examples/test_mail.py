"""`mail.send` through a worker that gathers batches, over a real SMTP server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from consumers.examples import mail as module
from consumers.registry import Task, load
from tests.consumers.support import Bench
from tests.support.mailserver import MailServer
from tests.support.process import free_port

LETTER = {"sender": "news@shop.test", "subject": "Hello", "text": "Hello"}

pytestmark = pytest.mark.usefixtures("no_backoff")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    with MailServer() as running:
        monkeypatch.setenv("SMTP_URL", running.url)
        yield running


@pytest.fixture(autouse=True)
def fresh_pace() -> Iterator[None]:
    module.pace.cache_clear()
    yield
    module.pace.cache_clear()


@pytest.fixture
async def send(bench: Bench) -> AsyncIterator[Task]:
    task = load("consumers.examples")["mail.send"]._replace(pool=bench.pool, window=0.2)
    async with bench.working(task):
        yield task


async def submit(bench: Bench, *to: str, **fields: Any) -> list[str]:
    return [await bench.submit("mail.send", value={**LETTER, "to": one}, **fields) for one in to]


async def test_mails_that_come_together_go_over_one_connection(bench: Bench, send: Task, server: MailServer) -> None:
    del send
    people = [f"u{number}@a.test" for number in range(12)]
    for job_id in await submit(bench, *people):
        job = await bench.until(job_id, "succeeded")
        assert job["result"] == {"delivered": "smtp", "answer": "250 taken"}
    assert sorted(server.box.recipients) == sorted(people)
    assert len(server.box.sessions) < len(people)


async def test_a_bad_mail_fails_alone(bench: Bench, send: Task, server: MailServer) -> None:
    del send
    server.box.answers = {"gone@a.test": ["550 No such user"], "busy@a.test": ["451 Try later"]}
    good, gone, busy, bad = await submit(bench, "good@a.test", "gone@a.test", "busy@a.test", "nobody")
    for job_id in (good, busy):
        await bench.until(job_id, "succeeded")
    for job_id, message in ((gone, "answered 550: No such user"), (bad, "input.to is not valid")):
        job = await bench.until(job_id, "failed")
        assert message in job["error"]["message"]
        assert job["attempt"] == 1
    assert (await bench.job(busy))["attempt"] == 2
    assert sorted(server.box.recipients) == ["busy@a.test", "good@a.test"]


async def test_each_domain_has_its_pace(bench: Bench, server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_PER_DOMAIN", "4")
    slow = [f"u{number}@slow.test" for number in range(9)]
    task = load("consumers.examples")["mail.send"]._replace(pool=bench.pool, batch=len(slow) + 1, window=60)
    async with bench.working(task):
        began = time.monotonic()
        for job_id in await submit(bench, *slow, "one@quick.test"):
            await bench.until(job_id, "succeeded")
    took = server.box.times[-1] - began
    assert took >= (len(slow) - 4) / 4  # a burst of four, then four a second
    assert "one@quick.test" in server.box.recipients[:6]


async def test_what_would_wait_too_long_comes_back_without_burning_an_attempt(
    bench: Bench, send: Task, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    del send
    monkeypatch.setenv("MAIL_PER_DOMAIN", "5")
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    jobs = await submit(bench, *(f"u{number}@a.test" for number in range(12)), max_attempts=1)
    for job_id in jobs:
        job = await bench.until(job_id, "succeeded", 30)
        assert job["attempt"] == 1
    assert "job.retrying" in [event for job_id in jobs for event in await bench.events(job_id)]
    assert len(server.box.recipients) == len(set(server.box.recipients)) == 12


async def test_a_mail_that_may_have_gone_out_is_not_sent_again(bench: Bench, send: Task, server: MailServer) -> None:
    del send
    server.box.hang_up = 1
    (job_id,) = await submit(bench, "a@a.test")
    job = await bench.until(job_id, "failed")
    assert (job["error"]["type"], job["attempt"]) == ("Uncertain", 2)
    assert server.box.recipients == ["a@a.test"]


async def test_without_the_server_all_are_tried_again(
    bench: Bench, send: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    del send
    monkeypatch.setenv("SMTP_URL", f"smtp://127.0.0.1:{free_port()}")
    jobs = await submit(bench, "a@a.test", "b@a.test", max_attempts=2)
    for job_id in jobs:
        job = await bench.until(job_id, "failed")
        assert (job["error"]["type"], job["attempt"]) == ("Unreachable", 2)


@pytest.mark.parametrize(
    ("name", "value", "change", "rule"),
    [
        ("SMTP_URL", "mail.test", {}, "SMTP_URL is not valid"),
        ("MAIL_PER_DOMAIN", "many", {}, "MAIL_PER_DOMAIN is not valid"),
        ("MAIL_TRACK_SECRET", "short", {"track": "https://t.test"}, "needs MAIL_TRACK_SECRET"),
    ],
)
async def test_a_setting_that_is_wrong(
    bench: Bench, send: Task, monkeypatch: pytest.MonkeyPatch, name: str, value: str, change: dict[str, Any], rule: str
) -> None:
    del send
    monkeypatch.setenv(name, value)
    job_id = await bench.submit("mail.send", value={**LETTER, "to": "a@a.test", **change})
    job = await bench.until(job_id, "failed")
    assert (job["error"]["type"], job["attempt"]) == ("GiveUp", 1)
    assert rule in job["error"]["message"]
