"""What the administrative commands share: they work on Redis directly."""

from __future__ import annotations

import getpass
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import click
import uvloop

from gateway.auth.principals import DEFAULT_TENANT
from gateway.errors import ConfigurationError, GatewayError
from gateway.settings import Settings, load
from gateway.store.redis import Store
from gateway.telemetry.logs import configure

T = TypeVar("T")

tenant_option = click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="Whose.")


@asynccontextmanager
async def opened_store() -> AsyncIterator[tuple[Store, Settings]]:
    """Open the Redis of the settings; what is logged meanwhile goes to the standard error."""
    settings = load()
    configure(settings)
    async with Store.open(settings) as store:
        yield store, settings


def run_command(program: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command's coroutine; a wrong setting or a refusal becomes a sentence that names the fields."""
    try:
        return uvloop.run(program())
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None
    except GatewayError as error:
        wrong = "".join(f"; {fault.pointer} {fault.detail}" for fault in error.errors)
        raise click.ClickException(f"{error.detail}{wrong}") from None


def caller() -> str:
    """Return who runs the command, for the log: in a container a user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
