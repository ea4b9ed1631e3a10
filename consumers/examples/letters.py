"""What a mail of the campaign says: headers, text, and HTML whose links can be counted. Pure."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Annotated, Final

import jwt
import msgspec

_URL: Final = re.compile(r"https?://[^\s<>\"']*[^\s<>\"'.,;:!?)]")

Address = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,190}\Z")]
Campaign = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}\Z")]
Subject = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\r\n\0]*\Z")]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=20_000)]
Url = Annotated[str, msgspec.Meta(max_length=1024, pattern=r"^https?://[^\s<>\"']+\Z")]


class Letter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The input of `mail.send`.

    Attributes:
        sender: an address.
        to: an address.
        subject: one line.
        text: the mail; it is also sent as HTML, its paragraphs and links made of the text's.
        campaign: whose events tell of it, in the channel `campaign:<name>`.
        track: where `consumers.examples.tracker` answers; opens and clicks are counted if this is given.
        unsubscribe: where one can unsubscribe (RFC 2369).
    """

    sender: Address
    to: Address
    subject: Subject
    text: Text
    campaign: Campaign | None = None
    track: Url | None = None
    unsubscribe: Url | None = None

    @property
    def domain(self) -> str:
        """Where the mail goes."""
        return self.to.rpartition("@")[2].lower()


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a link that is counted stands for: a mail, its campaign, and for a click where it leads."""

    mail: str
    campaign: str
    url: str | None = None


def sign(mark: Mark, secret: str) -> str:
    """Return a mark as a token nobody else can make: else anybody could redirect anywhere through the tracker."""
    return jwt.encode(msgspec.to_builtins(mark), secret, algorithm="HS256")


def read(token: str, secret: str) -> Mark | None:
    """Return what a token stands for, or None if it is none of ours."""
    try:
        return msgspec.convert(jwt.decode(token, secret, algorithms=["HS256"]), Mark)
    except (jwt.InvalidTokenError, msgspec.ValidationError):
        return None


def compose(letter: Letter, mail: str, key: str, now: datetime, secret: str = "") -> EmailMessage:
    """Write the message.

    Args:
        letter: what it says.
        mail: the mail's id in events.
        key: becomes its Message-ID, by which receivers recognise a repetition.
        now: its date.
        secret: signs the links of a letter with `track`.
    """
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"], message["Subject"] = letter.sender, letter.to, letter.subject
    message["Date"] = format_datetime(now)
    message["Message-ID"] = f"<{key}@{letter.sender.rpartition('@')[2]}>"
    if letter.unsubscribe is not None:
        message["List-Unsubscribe"] = f"<{letter.unsubscribe}>"
    message.set_content(letter.text)
    message.add_alternative(_html(letter, mail, secret), subtype="html")
    return message


def _html(letter: Letter, mail: str, secret: str) -> str:
    track = letter.track and letter.track.rstrip("/")

    def counted(kind: str, url: str | None) -> str:
        return f"{track}/{kind}/{sign(Mark(mail, letter.campaign or '', url), secret)}"

    target: Callable[[str], str] = (lambda url: counted("click", url)) if track else (lambda url: url)
    body = "".join(f"<p>{_paragraph(part, target)}</p>\n" for part in re.split(r"\n\s*\n", letter.text.strip()))
    pixel = f'<img src="{html.escape(counted("open", None))}" width="1" height="1" alt="">\n' if track else ""
    return f"<!doctype html>\n<html><body>\n{body}{pixel}</body></html>\n"


def _paragraph(text: str, target: Callable[[str], str]) -> str:
    parts, end = [], 0
    for found in _URL.finditer(text):
        url = found[0]
        parts += [
            html.escape(text[end : found.start()]),
            f'<a href="{html.escape(target(url))}">{html.escape(url)}</a>',
        ]
        end = found.end()
    return "".join([*parts, html.escape(text[end:])]).replace("\n", "<br>\n")
