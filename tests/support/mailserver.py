"""A real SMTP server in a thread of its own, that keeps what it gets and can be made to refuse or to break."""

from __future__ import annotations

import email
import time
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default
from types import TracebackType
from typing import Any, Self

from aiosmtpd.controller import Controller

from tests.support.process import free_port


@dataclass
class Box:
    """What came.

    Attributes:
        mails: in order.
        times: when each came, by the monotonic clock.
        answers: by recipient, what the server says to RCPT instead of taking it; each is used up.
        hang_up: how many times it hangs up where it should say that it took a mail.
        sessions: connections there were.
    """

    mails: list[EmailMessage] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    answers: dict[str, list[str]] = field(default_factory=dict)
    hang_up: int = 0
    sessions: set[Any] = field(default_factory=set)

    @property
    def recipients(self) -> list[str]:
        return [str(mail["To"]) for mail in self.mails]

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:  # noqa: N802 - aiosmtpd's name
        del server, options
        self.sessions.add(session.peer)
        said = self.answers.get(address)
        if said:
            return said.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        del session
        self.mails.append(email.message_from_bytes(envelope.content, EmailMessage, policy=default))
        self.times.append(time.monotonic())
        if self.hang_up:
            self.hang_up -= 1
            server.transport.abort()
        return "250 taken"


class MailServer:
    """The server, while entered."""

    def __init__(self) -> None:
        self.box = Box()
        self._controller = Controller(self.box, hostname="127.0.0.1", port=free_port())

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._controller.stop()

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self._controller.port}"
