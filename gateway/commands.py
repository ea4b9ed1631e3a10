"""Administration from the command line: API keys and subscriber tokens. Works on Redis directly."""

from __future__ import annotations

import time
from typing import get_args

import click

from gateway.auth.keys import KeyStore
from gateway.auth.principals import Capability, Scope
from gateway.auth.revocation import MAX_REMEMBERED, REMEMBERED, Revocations
from gateway.auth.secret import server_secret
from gateway.auth.tokens import Claims, Tokens
from gateway.cli import opened_store, run_command, tenant_option
from gateway.events import check_tenant, new_id
from gateway.web.responses import rfc3339


@click.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@tenant_option
@click.option("--name", required=True, help="What it is for.")
@click.option(
    "--scope", "scopes", multiple=True, required=True, type=click.Choice(get_args(Scope)), help="May be repeated."
)
def create_key(tenant: str, name: str, scopes: tuple[str, ...]) -> None:
    """Make an API key; it is shown once."""

    async def create() -> str:
        async with opened_store() as (store, settings):
            _, token = await KeyStore(store, settings).create(check_tenant(tenant), name, scopes)
            return token

    click.echo(run_command(create))


@keys.command("list")
@tenant_option
def list_keys(tenant: str) -> None:
    """List a tenant's API keys."""

    async def found() -> list[str]:
        async with opened_store() as (store, settings):
            listed = await KeyStore(store, settings).list(tenant)
        return [f"{key.id}  {rfc3339(key.created_at)}  {key.name}  {' '.join(key.scopes)}" for key in listed]

    for line in run_command(found):
        click.echo(line)


@keys.command("revoke")
@tenant_option
@click.argument("key_id")
def revoke_key(tenant: str, key_id: str) -> None:
    """Revoke an API key; what it opened is closed within a second."""

    async def revoke() -> None:
        async with opened_store() as (store, settings):
            await KeyStore(store, settings).revoke(tenant, key_id)

    run_command(revoke)


class _Default(click.Group):
    """A group whose first argument, when it is none of its commands, belongs to `create`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command in front that was left out."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["create", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Default)
def token() -> None:
    """Subscriber tokens: make one (`gateway token SUBJECT`), revoke."""


@token.command("create")
@tenant_option
@click.argument("subject")
@click.option("--ttl", default=3600, show_default=True, type=click.IntRange(1), help="Seconds it is valid.")
@click.option("--channel", "channels", multiple=True, help="Allow subscribing to it; a trailing * stands for anything.")
def create_token(tenant: str, subject: str, ttl: int, channels: tuple[str, ...]) -> None:
    """Make a subscriber token (a JWT) for the user SUBJECT."""

    async def mint() -> str:
        async with opened_store() as (store, settings):
            secret = await server_secret(store, settings)
        caps = (Capability(channels=channels, match="wildcard", allow=("sub", "hst")),) if channels else ()
        now = time.time()
        claims = Claims(
            sub=subject,
            tenant=check_tenant(tenant),
            iat=round(now, 3),
            exp=int(now) + ttl,
            jti=new_id("tok_"),
            caps=caps,
        )
        return Tokens(secret, issuer=settings.token_issuer, audience=settings.token_audience).mint(claims)

    click.echo(run_command(mint))


@token.command("revoke")
@tenant_option
@click.option("--jti", help="The token with this id.")
@click.option("--sub", help="All tokens this user has until now.")
@click.option(
    "--ttl",
    default=REMEMBERED,
    show_default=True,
    type=click.IntRange(60, MAX_REMEMBERED),
    help="Seconds it is remembered: not less than the token has left.",
)
def revoke_token(tenant: str, jti: str | None, sub: str | None, ttl: int) -> None:
    """Revoke a token or a user's tokens; what they opened is closed within a second."""
    if bool(jti) == bool(sub):
        raise click.UsageError("Give one of --jti and --sub.")

    async def revoke() -> None:
        async with opened_store() as (store, _):
            await Revocations(store).revoke(check_tenant(tenant), "j" if jti else "u", jti or sub or "", ttl=ttl)

    run_command(revoke)
