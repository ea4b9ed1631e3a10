"""`mail.campaign`: one mail to many people, each a job of its own (`mail.send`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from string import Template
from typing import Annotated, Any, Final

import msgspec

from consumers import ChildFailed, Context, task
from consumers.examples.inputs import one_of, parse
from consumers.examples.letters import Address, Campaign, Letter, Subject, Text, Url
from consumers.examples.mail import tracking_secret

MAX_RECIPIENTS: Final = 1000
MAX_SHOWN: Final = 20


class Recipient(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom a mail goes to; `name` is for the greeting."""

    email: Address
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=r"^[^\r\n\0]*\Z")] | None = None


class CampaignInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The input of `mail.campaign`: either `recipients` or `sample`; the rest as in `letters.Letter`.

    Attributes:
        subject: `$name` and `$email` stand for the recipient's, here and in `text`.
        recipients: at most 1,000; an address that comes twice gets one mail.
        sample: so many made-up recipients at example.com, .net and .org.
    """

    campaign: Campaign
    sender: Address
    subject: Subject
    text: Text
    recipients: Annotated[tuple[Recipient, ...], msgspec.Meta(min_length=1, max_length=MAX_RECIPIENTS)] | None = None
    sample: Annotated[int, msgspec.Meta(ge=1, le=MAX_RECIPIENTS)] | None = None
    track: Url | None = None
    unsubscribe: Url | None = None


@task("mail.campaign", timeout=600)
async def campaign(ctx: Context, job_input: object) -> dict[str, Any]:
    """Have a mail sent to everybody by jobs of their own, and wait for them without a worker; see `CampaignInput`.

    Returns:
        `channel` (of its events), `mails`, `delivered` ({smtp or kept: how many}), `failed`, and of the first twenty
        that failed `failures`, a list of {email, job, reason}.

    Raises:
        GiveUp: the input is not valid.
    """
    wanted = parse(job_input, CampaignInput)
    one_of(recipients=wanted.recipients, sample=wanted.sample)
    tracking_secret(wanted.track)
    people = _once_each(wanted.recipients or _sample(wanted.sample or 0))
    # By name: when the job resumes after a crash in the middle, whoever has a mail gets no second one.
    jobs = []
    for number, one in enumerate(people, 1):
        jobs.append(await ctx.spawn("mail.send", _letter(wanted, one), name=str(number)))
        ctx.progress(number, len(people), f"{number:,} of {len(people):,} mails handed in")
    outcomes = await ctx.gather(*jobs, return_exceptions=True)
    failed = [(who, found) for who, found in zip(people, outcomes, strict=True) if isinstance(found, ChildFailed)]
    return {
        "channel": f"campaign:{wanted.campaign}",
        "mails": len(people),
        "delivered": Counter(found["delivered"] for found in outcomes if not isinstance(found, ChildFailed)),
        "failed": len(failed),
        "failures": [{"email": who.email, "job": why.child, "reason": str(why)} for who, why in failed[:MAX_SHOWN]],
    }


def _once_each(given: Iterable[Recipient]) -> list[Recipient]:
    people: dict[str, Recipient] = {}
    for one in given:
        people.setdefault(one.email.lower(), one)
    return list(people.values())


def _sample(count: int) -> list[Recipient]:
    endings = ("com", "net", "org")
    return [Recipient(f"reader{n}@example.{endings[n % 3]}", f"Reader {n}") for n in range(1, count + 1)]


def _letter(wanted: CampaignInput, to: Recipient) -> Letter:
    about = {"name": to.name or to.email, "email": to.email}
    subject, text = (Template(template).safe_substitute(about) for template in (wanted.subject, wanted.text))
    return Letter(wanted.sender, to.email, subject, text, wanted.campaign, wanted.track, wanted.unsubscribe)
