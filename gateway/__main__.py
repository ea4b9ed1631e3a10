"""The `gateway` command."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path

import click
import uvloop

from gateway import __version__
from gateway.commands import keys, token
from gateway.commands_dead_letters import dead_letters
from gateway.commands_rebuild import rebuild
from gateway.commands_types import pause, resume, types
from gateway.errors import ConfigurationError, GatewayError

_PAUSE = "Seconds between readiness going away and the listener closing, so that balancers notice."


@click.group()
@click.version_option(__version__)
def main() -> None:
    """Real-time notification gateway."""


main.add_command(keys)
main.add_command(token)
main.add_command(dead_letters)


@main.group()
def jobs() -> None:
    """Jobs."""


for command in (types, pause, resume, rebuild):
    jobs.add_command(command)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--data", default=".data", show_default=True, type=click.Path(path_type=Path), help="Where data is kept.")
@click.option("--concurrency", default=10, show_default=True, type=click.IntRange(1, 1000), help="Jobs at a time.")
def dev(host: str, port: int, data: Path, concurrency: int) -> None:
    """Run everything in one process on embedded parts."""
    from gateway.dev import run_dev  # noqa: PLC0415 - only this command may know the workers

    run(run_dev(host, port, data, concurrency))


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes on the port.")
@click.option("--pause", default=0.0, show_default=True, type=click.FloatRange(0, 300), help=_PAUSE)
@click.option("--certificate", type=str, help="PEM file with the TLS certificate and its chain.")
@click.option("--key", type=str, help="PEM file with its key, when it is another.")
@click.option("--inherit", hidden=True, help="For the workers.")
def serve(
    *, host: str, port: int, workers: int, pause: float, certificate: str | None, key: str | None, inherit: str | None
) -> None:
    """Run the web process."""
    from gateway.serve import run_serve, run_worker  # noqa: PLC0415 - the other commands need no web server
    from gateway.server.run import ServerOptions  # noqa: PLC0415 - as above
    from gateway.server.workers import Inherited  # noqa: PLC0415 - as above

    options = ServerOptions(host=host, port=port, pause=pause, certificate=certificate, key=key)
    if inherit is None:
        run(run_serve(options, workers))
    else:
        run(run_worker(options, Inherited(*map(int, inherit.split(",")))))


def run(program: Coroutine[None, None, None]) -> None:
    """Run a command's coroutine; a wrong setting or a refusal becomes one sentence and exit code 2."""
    try:
        uvloop.run(program)
    except (ConfigurationError, GatewayError) as error:
        refuse(error)
    except BaseExceptionGroup as group:
        # A task group wraps what went wrong.
        found, _ = group.split((ConfigurationError, GatewayError))
        if found is None:
            raise
        refuse(found.exceptions[0])
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


def refuse(error: BaseException) -> None:
    """Say why the program stops."""
    click.echo(f"gateway: {error}", err=True)
    raise SystemExit(2) from None


if __name__ == "__main__":
    main()
