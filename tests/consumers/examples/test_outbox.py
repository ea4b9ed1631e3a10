"""Sending over a real SMTP server."""

from __future__ import annotations

from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any, cast

import pytest

from consumers import Context, GiveUp, Retry
from consumers.examples.outbox import Kept, Refused, Smtp, Unreachable, outbox
from tests.consumers.examples.support import FakeContext
from tests.support.mailserver import MailServer
from tests.support.process import free_port

CTX = cast("Context", None)


@pytest.fixture
def server() -> Iterator[MailServer]:
    with MailServer() as running:
        yield running


def mail(to: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "news@shop.test", to
    message.set_content(".\nHello\n..\n")
    return message


async def test_many_go_over_one_connection(server: MailServer) -> None:
    async with Smtp(server.url) as box:
        for number in range(5):
            sent = await box.send(CTX, mail(f"u{number}@a.test"))
            assert sent == {"delivered": "smtp", "answer": "250 taken"}
    assert server.box.recipients == [f"u{number}@a.test" for number in range(5)]
    assert server.box.mails[0].get_content().replace("\r\n", "\n") == ".\nHello\n..\n"
    assert len(server.box.sessions) == 1


@pytest.mark.parametrize(("answer", "kind"), [("550 No such user", Refused), ("451 Try later", Retry)])
async def test_an_answer_is_for_one_mail_and_the_next_one_goes(
    server: MailServer, answer: str, kind: type[Exception]
) -> None:
    server.box.answers["gone@a.test"] = [answer]
    async with Smtp(server.url) as box:
        with pytest.raises(kind, match=answer[:3]):
            await box.send(CTX, mail("gone@a.test"))
        await box.send(CTX, mail("here@a.test"))
    assert server.box.recipients == ["here@a.test"]


async def test_a_connection_lost_between_two_mails_is_opened_again(server: MailServer) -> None:
    async with Smtp(server.url) as box:
        await box.send(CTX, mail("a@a.test"))
        assert box._client.transport is not None
        box._client.transport.abort()  # type: ignore[attr-defined] # of a real connection
        await box.send(CTX, mail("c@a.test"))
    assert server.box.recipients == ["a@a.test", "c@a.test"]
    assert len(server.box.sessions) == 2


async def test_a_connection_lost_where_the_answer_should_be_leaves_a_doubt(server: MailServer) -> None:
    server.box.hang_up = 1
    async with Smtp(server.url) as box:
        with pytest.raises(ConnectionError) as caught:
            await box.send(CTX, mail("a@a.test"))
    assert not isinstance(caught.value, Retry | GiveUp)
    assert server.box.recipients == ["a@a.test"]


async def test_without_a_server_nothing_has_been_sent() -> None:
    with pytest.raises(Unreachable, match=r"no connection to the SMTP server 127\.0\.0\.1"):
        async with Smtp(f"smtp://127.0.0.1:{free_port()}"):
            pass


@pytest.mark.parametrize("url", ["localhost", "http://a.test", "smtp://", "smtp://a.test:port", "smtp://a.test:99999"])
def test_a_setting_that_is_no_server(url: str) -> None:
    with pytest.raises(GiveUp, match="SMTP_URL is not valid"):
        Smtp(url)


def test_the_setting_is_looked_at_when_a_mail_is_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMTP_URL", raising=False)
    assert isinstance(outbox(), Kept)
    monkeypatch.setenv("SMTP_URL", "smtps://user%40a.test:p%3Aw@mail.test")
    box = outbox()
    assert isinstance(box, Smtp)
    client = box._client
    assert (client.hostname, client.use_tls) == ("mail.test", True)
    assert (client._login_username, client._login_password) == ("user@a.test", "p:w")


async def test_without_a_setting_the_mail_is_kept_with_the_job() -> None:
    class Files(FakeContext):
        async def attach(self, name: str, data: bytes, content_type: str) -> dict[str, Any]:
            return self.attach_sync(name, data, content_type)

    ctx = Files()
    async with Kept() as box:
        kept = await box.send(cast("Context", ctx), mail("a@a.test"))
    assert (kept["delivered"], kept["file"]["name"]) == ("kept", "mail.eml")
    assert b"To: a@a.test" in ctx.files["mail.eml"][0]
