"""Settings: `GATEWAY_*` variables over an optional TOML file, read once, frozen.

An unknown or malformed setting stops the start with a sentence that names it.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from gateway.errors import ConfigurationError
from gateway.settings_check import check

PREFIX = "GATEWAY_"
_DAY = 86_400

Access = Literal["granted", "authenticated", "anyone"]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Bound = Annotated[int, msgspec.Meta(ge=0)]


class ChannelRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What holds for the channels of one namespace.

    Attributes:
        subscribe: who may subscribe: holders of a grant, anyone with a token, or anyone.
        publish: who may publish from a client; `never` keeps it to servers.
        history_size: publications kept per channel.
        history_ttl: seconds the history is kept after the last publication.
        recover: every subscription is recoverable, asked or not.
        presence: who is subscribed can be asked.
        join_leave: joins and leaves are pushed to every subscriber.
    """

    subscribe: Access = "granted"
    publish: Literal["never"] | Access = "never"
    history_size: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 1000
    history_ttl: Positive = _DAY
    recover: bool = True
    presence: bool = False
    join_leave: bool = False


Tenant = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]


class IssuerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Somebody who signs tokens with a private key.

    Attributes:
        issuer: the claim `iss` of its tokens; empty: any that is nobody else's.
        jwks_url: where its public keys are.
        jwks_file: the same as a file; one of the two.
        audience: must be in the claim `aud`, if given.
        tenant: the only tenant its tokens can be of.
    """

    issuer: str = ""
    jwks_url: str | None = None
    jwks_file: str | None = None
    audience: str | None = None
    tenant: Tenant = "default"


class CeleryRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How tasks of a Celery application are shown. `{0}` and `{name}` in a text stand for an argument of the task.

    Attributes:
        tenant: whose they are.
        owner: the user each belongs to.
        channels: further channels that get its events.
        arguments: whether the task's arguments are kept as the job's input.
        max_attempts: shown with the job; Celery does not tell its own `max_retries` + 1.
    """

    tenant: Tenant = "default"
    owner: str | None = None
    channels: tuple[str, ...] = ()
    arguments: bool = True
    max_attempts: Count = 4


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything an operator can set. Durations are seconds.

    Attributes:
        redis_url: a server, a master behind Sentinels or a Cluster; see `gateway.store.address`.
        shards: hash tags the tenants are spread over; set once, before there is data.
        amqp_url: `amqp://`, `amqps://`, or `memory://` for the in-process queue of `gateway dev`.
        rabbitmq_api_url: the management API, for `doctor` and depths.
        root_key: an API key with every scope in the default tenant.
        token_secret: signs and verifies HS256 subscriber tokens, tickets and cursors.
        token_issuer: the claim `iss` all tokens must have, except those of `issuers`.
        token_audience: what must be in the claim `aud` of the same tokens.
        token_tenant: the tenant of the tokens that are signed with a key of `jwks_url` or `jwks_file`.
        jwks_url: public keys of one issuer.
        jwks_file: the same as a file.
        issuers: further ones, by a name for the logs.
        allowed_origins: browser origins for WebSocket and CORS; `*` allows all.
        trusted_proxies: CIDRs whose `X-Forwarded-For` is believed.
        consumer_timeout: RabbitMQ's; longer tasks are acknowledged when claimed.
        webhook_allow: CIDRs the outbound address guard lets through although they are not public.
        anonymous: connections without a token are let in as user `""`.
        channels: rules by namespace; `""` = no namespace, `*` = the rest.
        attachments_dir: folder for attachments of jobs.
        attachments_url: a bucket for them instead, `s3://bucket/prefix`.
        max_attachment_bytes: largest attachment.
        lease: how long a worker's silence is believed to be life.
        job_retention: how long an ended job and its log are kept.
        max_open_jobs: open jobs a tenant may have.
        max_admitted_per_tenant: jobs of a tenant in queues and running at a time; 0: no cap.
        max_due: open jobs of a shard; 0: no bound.
        max_result_bytes: largest result of a task.
        cookie: name of a cookie that may hold a token, for what a browser connects with.
        max_connections: WebSockets, streams and emulated connections of one process; 0: no bound.
        max_connections_per_tenant: of one tenant in one process; 0: no bound.
        max_connections_per_address: from one client address (IPv6: one /64) to one process; 0: no bound.
        rate_limit: HTTP requests per second a tenant may make, over all processes; 0: no bound.
        rate_burst: how many of them may come at once.
        log_format: `console` for people, `json` for machines.
        log_level: of our own loggers.
    """

    redis_url: str = "redis://127.0.0.1:6379/0"
    shards: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    amqp_url: str = "amqp://guest:guest@127.0.0.1:5672/"
    rabbitmq_api_url: str | None = None
    root_key: str | None = None
    token_secret: str | None = None
    token_issuer: str | None = None
    token_audience: str | None = None
    token_tenant: Tenant = "default"  # noqa: S105 - a tenant's name
    jwks_url: str | None = None
    jwks_file: str | None = None
    issuers: dict[str, IssuerSettings] = {}
    allowed_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    consumer_timeout: Positive = 1500
    webhook_allow: tuple[str, ...] = ()
    anonymous: bool = False
    channels: dict[str, ChannelRules] = {}
    celery: dict[str, CeleryRule] = {}
    attachments_dir: str = ".data/attachments"
    attachments_url: str | None = None
    max_attachment_bytes: Count = 64 * 1024 * 1024
    lease: Annotated[float, msgspec.Meta(ge=1)] = 15
    job_retention: Positive = 7 * _DAY
    max_open_jobs: Count = 100_000
    max_admitted_per_tenant: Bound = 0
    max_due: Bound = 1_000_000
    max_result_bytes: Count = 1024 * 1024
    cookie: str | None = None
    max_connections: Bound = 50_000
    max_connections_per_tenant: Bound = 0
    max_connections_per_address: Bound = 1_000
    rate_limit: Annotated[float, msgspec.Meta(ge=0)] = 5_000
    rate_burst: Count = 10_000
    log_format: Literal["console", "json"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def rules(self, channel_namespace: str) -> ChannelRules:
        """Return the rules of a namespace: its own, else those of `*`, else the defaults."""
        found = self.channels.get(channel_namespace)
        if found is None:
            found = self.channels.get("*")
        return found if found is not None else _DEFAULT_RULES

    def all_issuers(self) -> dict[str, IssuerSettings]:
        """Return everybody who signs tokens with a private key, by name; `jwks` is the one without a table."""
        if self.jwks_url is None and self.jwks_file is None:
            return self.issuers
        simple = IssuerSettings(
            issuer=self.token_issuer or "",
            jwks_url=self.jwks_url,
            jwks_file=self.jwks_file,
            audience=self.token_audience,
            tenant=self.token_tenant,
        )
        return {"jwks": simple, **self.issuers}


_DEFAULT_RULES = ChannelRules()
# In the environment lists are comma-separated text and tables are JSON.
_LISTS = frozenset({"allowed_origins", "trusted_proxies", "webhook_allow"})
_JSON = frozenset({"celery", "channels", "issuers"})
# Read elsewhere: the file itself, and what `gateway dev` hands to its own children.
_NOT_SETTINGS = frozenset({"config"})


def load(environment: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Read the settings.

    Args:
        environment: instead of `os.environ`.
        overrides: settings that win over both sources (the command line's).

    Raises:
        ConfigurationError: a setting is unknown or malformed.
    """
    environ = os.environ if environment is None else environment
    values = _from_file(environ.get(PREFIX + "CONFIG"))
    values.update(_from_environment(environ))
    values.update(overrides)
    settings = _convert(values)
    check(settings, PREFIX)
    return settings


def _from_file(path: str | None) -> dict[str, Any]:
    if not path:
        return {}
    try:
        return tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{PREFIX}CONFIG={path}: {error}") from None


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name in _NOT_SETTINGS:
            continue
        if name not in Settings.__struct_fields__:
            raise ConfigurationError(f"{variable} is not a setting")
        values[name] = _parse(variable, name, text)
    return values


def _parse(variable: str, name: str, text: str) -> object:
    if name in _LISTS:
        return [part.strip() for part in text.split(",") if part.strip()]
    if name in _JSON:
        try:
            return json.loads(text)
        except ValueError as error:
            raise ConfigurationError(f"{variable} is not JSON: {error}") from None
    return text


def _convert(values: Mapping[str, Any]) -> Settings:
    for name in values:
        if name not in Settings.__struct_fields__:
            raise ConfigurationError(f"{name} is not a setting")
    try:
        # strict=False reads "15" and "true" as a number and a boolean, as the environment can only say text.
        return msgspec.convert(dict(values), Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"a setting is not valid: {error}") from None
