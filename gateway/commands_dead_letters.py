"""`gateway dead-letters`: what waits for a person, from the command line. Works on Redis directly."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple, Self, TypeVar

import click
import msgspec
import structlog

from gateway.cli import caller, opened_store, run_command, tenant_option
from gateway.events import check_tenant
from gateway.jobs.dead_filter import Done, Filter, shown_group
from gateway.jobs.deadletters import MAX_COUNTED, MAX_SAMPLE, DeadLetters
from gateway.jobs.queues import open_queue
from gateway.store.deadletters import UNOWNED, DeadLetterStore, Place

log = structlog.get_logger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

LOT: Final = 500  # dead letters in one step of many
_AGO = re.compile(r"(\d{1,6})([smhd])\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

_unowned = click.option("--unowned", is_flag=True, help="Messages whose tenant nobody knows.")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@click.group("dead-letters")
def dead_letters() -> None:
    """Failed jobs, and messages nobody could deal with."""


def _filters(command: F) -> F:
    """Add the options that say which dead letters."""
    options = [
        click.option("--group", help="A group's id; see `groups`."),
        click.option("--error-type", help="The error's type, such as TimeoutError."),
        click.option("--reason", help="failed, given-up, crashed, undecodable …"),
        click.option("--type", "type_", help="The job's type."),
        click.option("--pool", help="The job's pool."),
        click.option("--since", help="Died then or later: 2026-01-31T12:00:00Z, or 90s, 30m, 6h, 2d ago."),
        click.option("--until", help="Died then or earlier."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@dead_letters.command("list")
@tenant_option
@_unowned
@_filters
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 100_000))
@_json
def list_letters(*, tenant: str, unowned: bool, limit: int, as_json: bool, **filters: str | None) -> None:
    """List dead letters, newest first."""

    async def found() -> list[bytes]:
        async with opened_store() as (store, settings):
            letters = DeadLetters(store, None, settings)
            owner, which = _owner(tenant, unowned=unowned), _filter(**filters)
            items: list[bytes] = []
            after = None
            while len(items) < limit:
                page = await letters.find(owner, which, limit=min(LOT, limit - len(items)), after=after)
                items += page.items
                after = page.after
                if after is None:
                    break
            return items

    for item in run_command(found):
        click.echo(item if as_json else _line(item))


@dead_letters.command("groups")
@tenant_option
@_unowned
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@_json
def list_groups(*, tenant: str, unowned: bool, limit: int, as_json: bool) -> None:
    """List the groups of errors, the one that grew last first."""

    async def found() -> list[dict[str, Any]]:
        async with opened_store() as (store, settings):
            groups, _, _ = await DeadLetterStore(store, settings).groups(_owner(tenant, unowned=unowned), limit=limit)
            return [shown_group(group) for group in groups]

    for item in run_command(found):
        if as_json:
            click.echo(msgspec.json.encode(item))
            continue
        group = msgspec.json.decode(item["group"])
        head = f"{group['id']}  {item['count']:>7}  {item['first_seen']} to {item['last_seen']}"
        click.echo(f"{head}  {group['error_type']}: {group['message']}  ({item['sample']})")


@dead_letters.command("show")
@tenant_option
@_unowned
@click.argument("letter_id")
def show_letter(*, tenant: str, unowned: bool, letter_id: str) -> None:
    """Show one, with all that is known: JSON."""

    async def found() -> bytes:
        async with opened_store() as (store, settings):
            letters = DeadLetters(store, None, settings)
            return await letters.show(_owner(tenant, unowned=unowned), letter_id)

    click.echo(msgspec.json.format(run_command(found)))


def _chosen(command: F) -> F:
    """Add the arguments and options of what changes many."""
    for option in (
        click.argument("ids", nargs=-1),
        _json,
        click.option("--dry-run", is_flag=True, help="Only say how many, and show some."),
        click.option("--all", "everything", is_flag=True, help="All there are."),
        _filters,
        _unowned,
        tenant_option,
    ):
        command = option(command)
    return command


@dead_letters.command("requeue")
@_chosen
@click.option("--rate", type=click.FloatRange(0.01, 100_000), help="Jobs a second.")
def requeue_letters(*, rate: float | None, **options: Any) -> None:  # noqa: ANN401 - those of `_Choice`
    """Run jobs again, as new runs, or put messages back into their queues: those named by IDS, or by a filter."""
    choice = _Choice.read(**options)

    async def requeue(after: Place | None) -> Done:
        async with opened_store() as (store, settings), open_queue(settings) as queue:
            letters = DeadLetters(store, queue, settings)
            if choice.ids:
                done = await letters.requeue_these(choice.owner, choice.ids)
                return done._replace(after=None)  # another lot would be the same ids
            done = await letters.requeue_many(choice.owner, choice.which, limit=LOT, after=after, rate=rate)
        if done.after and rate:
            await asyncio.sleep(done.done / rate)  # until these have become due
        return done

    choice.carry_out("requeued", requeue)


@dead_letters.command("discard")
@_chosen
def discard_letters(**options: Any) -> None:  # noqa: ANN401 - those of `_Choice`
    """Take out of the dead letters for good: those named by IDS, or by a filter. Jobs stay failed."""
    choice = _Choice.read(**options)

    async def discard(after: Place | None) -> Done:
        async with opened_store() as (store, settings):
            letters = DeadLetters(store, None, settings)
            if choice.ids:
                return await letters.discard_these(choice.owner, choice.ids)
            return await letters.discard_many(choice.owner, choice.which, limit=LOT, after=after)

    choice.carry_out("discarded", discard)


class _Choice(NamedTuple):
    """Which dead letters a command is about."""

    owner: str
    which: Filter
    ids: Sequence[str]
    dry_run: bool
    as_json: bool

    @classmethod
    def read(
        cls,
        *,
        tenant: str,
        unowned: bool,
        everything: bool,
        dry_run: bool,
        as_json: bool,
        ids: tuple[str, ...],
        **filters: str | None,
    ) -> Self:
        if sum([bool(ids), everything or any(filters.values())]) != 1:
            raise click.UsageError("Say which: IDS, or a filter, or --all.")
        if ids and dry_run:
            raise click.UsageError("--dry-run is for a filter.")
        return cls(_owner(tenant, unowned=unowned), _filter(**filters), ids, dry_run, as_json)

    def carry_out(self, what: str, lot: Callable[[Place | None], Awaitable[Done]]) -> None:
        """Do it, lot after lot, and report; exits with 1 when something could not be done."""
        if self.dry_run:
            done, sample = run_command(self._count)
        else:
            done, sample = run_command(partial(_all_lots, lot)), []
            log.info(
                "dead_letter.dealt_with",
                how=what,
                tenant=self.owner,
                by=caller(),
                by_tenant="",
                count=done.done,
            )
        failed = [{"id": letter_id, "error": error.detail} for letter_id, error in done.failed]
        if self.as_json:
            facts = {"dry_run": self.dry_run, "matched": done.matched, "done": done.done, "failed": failed}
            click.echo(msgspec.json.encode({**facts, "sample": [msgspec.Raw(item) for item in sample]}))
        else:
            for item in sample:
                click.echo(_line(item))
            click.echo(f"{done.matched} match" if self.dry_run else f"{done.done} {what}")
            for failure in failed:
                click.echo(f"{failure['id']}: {failure['error']}", err=True)
        if failed:
            raise SystemExit(1)

    async def _count(self) -> tuple[Done, Sequence[bytes]]:
        async with opened_store() as (store, settings):
            letters = DeadLetters(store, None, settings)
            counted = Done(0, 0, [], None)
            while True:
                part = await letters.count(self.owner, self.which, limit=MAX_COUNTED, after=counted.after)
                counted = part._replace(matched=counted.matched + part.matched)
                if part.after is None:
                    return counted, (await letters.find(self.owner, self.which, limit=MAX_SAMPLE)).items


async def _all_lots(lot: Callable[[Place | None], Awaitable[Done]]) -> Done:
    total = Done(0, 0, [], None)
    while True:
        done = await lot(total.after)
        failed = [*total.failed, *done.failed][:LOT]
        total = Done(total.matched + done.matched, total.done + done.done, failed, done.after)
        # Where nothing could be done any more the next lot would fare no better.
        if done.after is None or (done.matched and not done.done):
            return total


def _line(item: bytes) -> str:
    letter = msgspec.json.decode(item)
    what = letter["job"]["type"] if letter["job"] else letter["message"]["source"]
    group = letter["group"]
    head = f"{letter['died_at']}  {letter['id']}  {letter['reason']:<11}  {group['id']}"
    return f"{head}  {what}  {group['error_type']}: {group['message']}"


def _owner(tenant: str, *, unowned: bool) -> str:
    return UNOWNED if unowned else check_tenant(tenant)


def _filter(*, type_: str | None = None, since: str | None = None, until: str | None = None, **texts: Any) -> Filter:  # noqa: ANN401
    given = {**texts, "type": type_, "since": _time(since), "until": _time(until)}
    try:
        return msgspec.convert({name: value for name, value in given.items() if value is not None}, Filter)
    except msgspec.ValidationError as error:
        raise click.UsageError(f"A filter is not valid: {error}") from None


def _time(text: str | None) -> str | None:
    ago = _AGO.match(text) if text else None
    if ago is None:
        return text
    try:
        return (datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})).isoformat()
    except OverflowError:
        raise click.UsageError(f"{text} ago there was no year yet") from None
