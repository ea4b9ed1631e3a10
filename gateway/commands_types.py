"""`gateway jobs types|pause|resume`: job types from the command line. Works on Redis directly."""

from __future__ import annotations

import click

from gateway.cli import opened_store, run_command
from gateway.jobs.task_types import KnownType, TaskTypes


@click.command()
def types() -> None:
    """List the job types: pool, cap, pause, open and waiting jobs of all tenants."""

    async def found() -> list[KnownType]:
        async with opened_store() as (store, _):
            return await TaskTypes(store).known()

    for one in run_command(found):
        click.echo(_line(one))


@click.command()
@click.argument("type_", metavar="TYPE")
def pause(type_: str) -> None:
    """Start no more jobs of a type; they are accepted and wait."""
    _pause(type_, paused=True)


@click.command()
@click.argument("type_", metavar="TYPE")
def resume(type_: str) -> None:
    """Let a paused type go on."""
    _pause(type_, paused=False)


def _pause(name: str, *, paused: bool) -> None:
    async def change() -> bool:
        async with opened_store() as (store, _):
            return await TaskTypes(store).pause(name, paused=paused)

    if not run_command(change):
        raise click.ClickException(f"no worker has registered the type {name!r}")


def _line(one: KnownType) -> str:
    cap = "no cap" if one.max_running is None else f"{one.admitted} of {one.max_running} admitted"
    state = "paused" if one.paused else "active"
    return f"{one.type}  pool {one.pool}  {state}  {cap}  {one.open} open  {one.waiting} waiting"
