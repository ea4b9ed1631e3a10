"""What the types of the settings cannot say."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.errors import ConfigurationError
from gateway.store.address import RedisAddress
from gateway.urls import check_address

if TYPE_CHECKING:
    from gateway.settings import Settings

_MIN_SECRET = 32  # RFC 7518 section 3.2: an HS256 key is no shorter than the hash


def check(settings: Settings, prefix: str) -> None:
    """Check the settings; raises ConfigurationError, which names the one that is wrong as the variable `prefix`…."""
    RedisAddress.parse(settings.redis_url)
    schemes = {
        "amqp_url": ("amqp", "amqps", "memory"),
        "rabbitmq_api_url": ("http", "https"),
    }
    for name, allowed in schemes.items():
        url = getattr(settings, name)
        if url is not None:
            check_address(f"{prefix}{name.upper()}", url, allowed)
    for name in ("trusted_proxies", "webhook_allow"):
        for cidr in getattr(settings, name):
            try:
                ipaddress.ip_network(cidr)
            except ValueError as error:
                raise ConfigurationError(f"{prefix}{name.upper()}: {error}") from None
    if settings.token_secret is not None and len(settings.token_secret) < _MIN_SECRET:
        raise ConfigurationError(
            f"{prefix}TOKEN_SECRET must have at least {_MIN_SECRET} characters (RFC 7518 section 3.2)"
        )
    _check_issuers(settings)
    for origin in settings.allowed_origins:
        if origin != "*" and not _is_origin(origin):
            raise ConfigurationError(
                f"{prefix}ALLOWED_ORIGINS: {origin} is not of the form https://host or https://host:port"
            )


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.netloc) and text == f"{parts.scheme}://{parts.netloc}".lower()


def _check_issuers(settings: Settings) -> None:
    if "jwks" in settings.issuers and (settings.jwks_url or settings.jwks_file):
        raise ConfigurationError("issuers.jwks cannot be used together with GATEWAY_JWKS_URL or GATEWAY_JWKS_FILE")
    seen: set[str] = set()
    for name, issuer in settings.all_issuers().items():
        if (issuer.jwks_url is None) == (issuer.jwks_file is None):
            raise ConfigurationError(f"issuer {name}: give one of jwks_url and jwks_file")
        if issuer.jwks_url is not None:
            check_address(f"issuer {name}: jwks_url", issuer.jwks_url, ("http", "https"))
        if name in settings.issuers and not issuer.issuer:
            raise ConfigurationError(f"issuer {name}: issuer, the claim iss of its tokens, is missing")
        if issuer.issuer in seen:
            raise ConfigurationError(f"issuer {name}: another one has the same claim iss, {issuer.issuer}")
        seen.add(issuer.issuer)
