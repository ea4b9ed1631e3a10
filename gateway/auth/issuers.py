"""Others who sign tokens for us: each with its own keys, and each speaking for one tenant only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from gateway.auth.jwks import Header, peek_issuer, verified_payload
from gateway.auth.keyring import MAX_DOCUMENT, Fetch, Keyring
from gateway.auth.tokens import Claims, Expected, read_claims
from gateway.errors import Unauthenticated
from gateway.settings import IssuerSettings, Settings

log = structlog.get_logger(__name__)

FILE_REFRESH = 30.0
CLOCKS = 5.0  # seconds an issuer's clock may be ahead of ours

Download = Callable[[str], Awaitable[bytes]]
"""Fetches a URL: at most `MAX_DOCUMENT` bytes, within a few seconds; raises OSError or ValueError."""


class Issuer(NamedTuple):
    """One of them: its name in the settings, what its tokens must say, its keys."""

    name: str
    expected: Expected
    keyring: Keyring


class Issuers:
    """Reads tokens that are signed with a private key. `iss` picks the issuer, whose keys then have to fit."""

    def __init__(self, issuers: Sequence[Issuer]) -> None:
        self.issuers = tuple(issuers)
        self._named = {issuer.expected.issuer: issuer for issuer in issuers}

    async def claims(self, token: str, header: Header, now: float) -> Claims:
        """Return what a token says, of either kind.

        Raises:
            TokenExpired: it was good once.
            KeysUnavailable: its issuer's keys cannot be had.
            Unauthenticated: anything else is wrong with it.
        """
        issuer = self._named.get(peek_issuer(token)) or self._named.get(None)
        if issuer is None:
            raise Unauthenticated("The token is not from an issuer we know (claim iss)")
        keys = await issuer.keyring.find(header)
        return read_claims(verified_payload(token, keys), now, issuer.expected)


def issuers_from(settings: Settings, download: Download) -> Issuers:
    """Make the issuers the settings name."""
    return Issuers([_issuer(name, found, download) for name, found in settings.all_issuers().items()])


def _issuer(name: str, found: IssuerSettings, download: Download) -> Issuer:
    if found.audience is None:
        log.warning("jwks.any_audience", issuer=name, why="tokens it makes for other services are accepted here too")
    expected = Expected(found.issuer or None, found.audience, found.tenant, CLOCKS)
    if found.jwks_file is not None:
        return Issuer(name, expected, Keyring(name, _file(found.jwks_file), refresh=FILE_REFRESH))
    url = found.jwks_url or ""
    return Issuer(name, expected, Keyring(name, lambda: download(url)))


def _file(path: str) -> Fetch:
    def read() -> bytes:
        with Path(path).open("rb") as file:
            document = file.read(MAX_DOCUMENT + 1)
        if len(document) > MAX_DOCUMENT:
            raise ValueError(f"over {MAX_DOCUMENT} bytes")
        return document

    async def fetch() -> bytes:
        return await asyncio.to_thread(read)

    return fetch
