"""Where mails go: to the SMTP server that `SMTP_URL` names, or without one to the job, as a file to look at."""

from __future__ import annotations

import os
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Final, Protocol, Self
from urllib.parse import unquote, urlsplit

from consumers import Context, GiveUp, Retry

try:
    from aiosmtplib import SMTP, SMTPException, SMTPResponseException, SMTPServerDisconnected
except ModuleNotFoundError as _missing:  # an optional dependency; only who sends by SMTP needs it
    if _missing.name != "aiosmtplib":
        raise
    _aiosmtplib = False
else:
    _aiosmtplib = True

LIMIT: Final = 20.0  # seconds for each answer of the server
_PERMANENT: Final = 500  # RFC 5321 section 4.2.1: 5yz says that trying again is useless


class Unreachable(Retry):
    """There is no connection to the server: nothing has been sent."""


class Refused(GiveUp):
    """The server will not take this mail, now or later."""


class Outbox(Protocol):
    """What takes mails, one after the other, between entering and leaving it."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    async def send(self, ctx: Context, message: EmailMessage) -> dict[str, Any]:
        """Deliver one; returns what the job's result says of it.

        Raises:
            Refused: for good.
            Retry: not now; nothing has been sent.
            Exception: whether it was taken is not known.
        """
        ...


def outbox() -> Outbox:
    """Return the one that is set.

    Raises:
        GiveUp: the setting is no URL of a server, or aiosmtplib is missing.
    """
    url = os.environ.get("SMTP_URL", "")
    return Smtp(url) if url else Kept()


class Kept:
    """Attaches each mail to its job instead of sending it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, ctx: Context, message: EmailMessage) -> dict[str, Any]:
        """Keep it as `mail.eml`."""
        file = await ctx.attach("mail.eml", message.as_bytes(), "message/rfc822")
        return {"delivered": "kept", "file": file, "why": "SMTP_URL is not set, so the mail was not sent"}


class Smtp:
    """A connection to a server, opened again when it was lost between two mails.

    Args:
        url: `smtp://user:password@host:port` (STARTTLS if the server offers it) or `smtps://…`.
    """

    def __init__(self, url: str) -> None:
        if not _aiosmtplib:
            raise GiveUp("sending mail needs aiosmtplib: pip install 'notification-gateway[examples]'")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise GiveUp("SMTP_URL is not valid: the port must be a number") from None
        if parts.scheme not in {"smtp", "smtps"} or not parts.hostname:
            raise GiveUp("SMTP_URL is not valid: it must be smtp://user:password@host:port or smtps://…")
        self._client = SMTP(
            hostname=parts.hostname,
            port=port,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            use_tls=parts.scheme == "smtps",
            timeout=LIMIT,
        )
        self._where = f"{parts.hostname}:{port}" if port else parts.hostname

    async def __aenter__(self) -> Self:
        await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.close()

    async def send(self, ctx: Context, message: EmailMessage) -> dict[str, Any]:
        """See `Outbox.send`. Only a connection that is lost while the mail itself is sent leaves a doubt."""
        del ctx
        try:
            await self._envelope(message)
            answer = await self._client.data(message.as_bytes())
        except SMTPResponseException as error:
            self._client.close()  # whatever the server remembers of this mail must not meet the next one
            kind = Refused if error.code >= _PERMANENT else Retry
            raise kind(f"{self._where} answered {error.code}: {error.message}") from None
        return {"delivered": "smtp", "answer": f"{answer.code} {answer.message}"}

    async def _envelope(self, message: EmailMessage) -> None:
        """Say from whom and to whom; a connection that turns out to be lost is opened once more."""
        for last in (False, True):
            try:
                if not self._client.is_connected:
                    await self._connect()
                await self._client.mail(message["From"])
                await self._client.rcpt(message["To"])
            except (SMTPServerDisconnected, TimeoutError) as error:
                self._client.close()
                if last:
                    raise Unreachable(f"{self._where} does not answer: {error}") from None
            else:
                return

    async def _connect(self) -> None:
        try:
            await self._client.connect()
        except (SMTPException, OSError) as error:
            raise Unreachable(f"no connection to the SMTP server {self._where}: {error}") from None
