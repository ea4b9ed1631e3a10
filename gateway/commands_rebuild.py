"""`gateway jobs rebuild`: stored jobs beside their logs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import click

from gateway.auth.principals import DEFAULT_TENANT
from gateway.cli import opened_store, run_command
from gateway.errors import NotFound
from gateway.events import check_tenant
from gateway.jobs.restore import DAMAGED, MISSING, Checked, Restorer
from gateway.store.channels import ChannelStore

_SHOWN = 120  # characters of a value


@click.command()
@click.argument("job_id", required=False)
@click.option("--tenant", help="Whose: of JOB_ID (default: default), or of all that are looked at.")
@click.option("--all", "everything", is_flag=True, help="Look at all jobs.")
@click.option("--check", is_flag=True, help="Only say what differs.")
def rebuild(job_id: str | None, tenant: str | None, *, everything: bool, check: bool) -> None:
    """Derive jobs from their event logs, and write those anew that are stored otherwise.

    Ends with 1 when a job differs and was not restored.
    """
    if bool(job_id) == everything:
        raise click.UsageError("Give a job's id or --all.")

    async def go() -> int:
        left = looked = 0
        async with opened_store() as (store, settings):
            restorer = Restorer(store, ChannelStore(store, settings))
            async for owner, found in _wanted(restorer, job_id, check_tenant(tenant) if tenant else None):
                looked += 1
                checked = await restorer.check(owner, found)
                if job_id and checked.version == MISSING and not (checked.told.job or checked.told.faults):
                    raise NotFound(f"the tenant {owner} has neither a job {found!r} nor its log")
                left += await _look(restorer, checked, check=check)
        click.echo(f"{looked} jobs looked at, {left} left that differ from their logs")
        return left

    if run_command(go):
        raise SystemExit(1)


async def _wanted(restorer: Restorer, job_id: str | None, tenant: str | None) -> AsyncIterator[tuple[str, str]]:
    if job_id is not None:
        yield tenant or DEFAULT_TENANT, job_id
        return
    for owner in [tenant] if tenant else await restorer.tenants():
        async for found in restorer.ids(owner):
            yield owner, found


async def _look(restorer: Restorer, checked: Checked, *, check: bool) -> bool:
    """Tell about one job, and restore it; True when it still differs."""
    for fault in checked.told.faults:
        click.echo(f"{checked.tenant} {checked.id}  log: {fault}")
    if not checked.differences:
        return False
    state = {MISSING: "no record", DAMAGED: "unreadable record"}.get(checked.version, f"version {checked.version}")
    click.echo(f"{checked.tenant} {checked.id}  {state}, log says version {checked.told.version}")
    for difference in checked.differences if checked.version >= 0 else ():
        stored, told = (value.decode()[:_SHOWN] or "nothing" for value in (difference.stored, difference.told))
        click.echo(f"  {difference.field}: {stored} is stored, {told} is told")
    if check:
        return True
    why = await restorer.restore(checked)
    click.echo(f"  left alone: {why}" if why else "  restored")
    return why is not None
