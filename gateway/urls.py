"""Addresses in settings and options. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from gateway.errors import ConfigurationError


def check_address(name: str, url: str, schemes: Sequence[str]) -> None:
    """See to it that a URL can be one, and has one of the schemes.

    Raises:
        ConfigurationError: it has not; the sentence holds nothing of the URL, which may have a password.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigurationError(
            f"{name} is no address: the port must be a number, and / : @ ? # [ ] in a password written as %2F and so on"
        ) from None
    if parts.scheme not in schemes:
        raise ConfigurationError(f"{name} must start with {' or '.join(f'{scheme}://' for scheme in schemes)}")
