"""`mail.send`: one mail, sent together with others over one connection, each domain at its own pace."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from consumers import Batch, Context, GiveUp, Item, Snooze, task
from consumers.examples.inputs import parse
from consumers.examples.letters import Letter, compose
from consumers.examples.outbox import Outbox, Refused, Unreachable, outbox
from consumers.examples.pace import Pace

PATIENCE: Final = 30.0  # seconds a mail waits for its turn at a domain; if it is further away, it comes back later
SECRET_LENGTH: Final = 32
SLOWEST: Final = 0.01
FASTEST: Final = 1000


@task("mail.send", batch=100, window=0.5, timeout=300)
async def send(batch: Batch) -> None:
    """Send the mails of a batch over one connection, each domain at its own pace; see `letters.Letter`.

    Each job's result has `delivered`: "smtp" with the server's `answer`, or without a server "kept" with the `file`.
    A mail that may have gone out although nothing says so is not sent again: its job ends as `Uncertain`.
    """
    began = asyncio.get_running_loop().time()
    turns = _turns(batch, began)
    if turns:
        async with outbox() as box:
            for wait, item, letter in sorted(turns, key=lambda turn: turn[0]):
                await asyncio.sleep(began + wait - asyncio.get_running_loop().time())
                await _deliver(item, letter, box)


def _turns(batch: Batch, now: float) -> list[tuple[float, Item, Letter]]:
    """Say in how many seconds each mail goes. Whose turn is too far away comes back later, the attempt unburnt."""
    turns: list[tuple[float, Item, Letter]] = []
    late: Counter[str] = Counter()
    for item in batch:
        try:
            letter = parse(item.input, Letter)
            tracking_secret(letter.track)
        except GiveUp as error:
            item.fail(error)
            continue
        domain = letter.domain
        wait = pace().reserve(domain, now, PATIENCE)
        if wait is None:
            late[domain] += 1
            after = pace().wait(domain, now) + late[domain] * pace().every
            item.fail(Snooze(f"{domain} has as many mails as it may get for now", after=after))
        else:
            turns.append((wait, item, letter))
    return turns


async def _deliver(item: Item, letter: Letter, box: Outbox) -> None:
    ctx = item.ctx

    async def once(key: str) -> dict[str, Any]:
        return await box.send(ctx, compose(letter, ctx.job_id, key, datetime.now(UTC), tracking_secret(letter.track)))

    try:
        sent = await ctx.once("smtp", once)
        await _tell(ctx, letter, "mail.sent")
        item.succeed(sent)
    except Unreachable:
        raise  # this and all others of the batch
    except Refused as error:
        await _tell(ctx, letter, "mail.bounced", reason=str(error))
        item.fail(error)
    except Exception as error:  # noqa: BLE001 - whatever it was is this mail's, and the others go on
        item.fail(error)


async def _tell(ctx: Context, letter: Letter, type_: str, **more: str) -> None:
    """Publish what became of a mail. Its address is not said: the campaign's channel may have many readers."""
    if letter.campaign is not None:
        data = {"mail": ctx.job_id, "campaign": letter.campaign, "domain": letter.domain, **more}
        await ctx.publish(f"campaign:{letter.campaign}", type_, data, event_id=f"{ctx.idempotency_key}-{type_[5:]}")


@cache
def pace() -> Pace:
    """Return the pace of this worker process: `MAIL_PER_DOMAIN` mails a second, by default 20."""
    said = os.environ.get("MAIL_PER_DOMAIN", "20")
    try:
        rate = float(said)
    except ValueError:
        rate = 0.0
    if not SLOWEST <= rate <= FASTEST:
        raise GiveUp(f"MAIL_PER_DOMAIN is not valid: it must be mails a second, {SLOWEST} to {FASTEST}")
    return Pace(rate, max(1, int(rate)))


def tracking_secret(track: str | None) -> str:
    """Return what signs the links that are counted.

    Raises:
        GiveUp: they are to be counted, and `MAIL_TRACK_SECRET` is not set.
    """
    secret = os.environ.get("MAIL_TRACK_SECRET", "")
    if track is not None and len(secret) < SECRET_LENGTH:
        raise GiveUp(f"counting opens and clicks needs MAIL_TRACK_SECRET, at least {SECRET_LENGTH} characters")
    return secret
