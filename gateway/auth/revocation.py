"""Revoked tokens, users and API keys: recorded in Redis, and known in every process without asking it each time.

Each process keeps a copy of all that is revoked (`View`, bounded by what the scripts accept). The copy is right
because of three things: every revocation is published and names the version before it, so that a hole is seen;
`catch_up` reads all after the last version known in any case, on an interval, so that nothing depends on the
message; and versions never repeat. A process that cannot reach Redis judges by what it knew last.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import resources
from typing import Literal, NamedTuple

import structlog

from gateway.auth.principals import Credential
from gateway.errors import Conflict
from gateway.store.redis import Script, Store

log = structlog.get_logger(__name__)

TAG = "{keys}:"
CHANNEL = b"{keys}:control:revoked"
REMEMBERED = 30 * 86_400  # seconds: as long as the longest token we mint
MAX_REMEMBERED = 366 * 86_400
PER_TENANT = 10_000
TOTAL = 100_000
RESERVED = 100  # of each tenant, besides those: nobody can keep another from revoking
KEY_REMEMBERED = 86_400  # the key itself is gone at once: this is for processes that were away
_PAGE = 1000
_SWEEP = 60.0
_LIMIT = 3 * TOTAL  # a view that outgrew what a server can hold, because servers were emptied, starts over

_PRELUDE = resources.files("gateway.auth").joinpath("lua/revocations.lua").read_text()


def script(name: str) -> Script:
    """Load a script that revokes."""
    return Script.load("gateway.auth", f"lua/{name}.lua", prelude=_PRELUDE)


_REVOKE, _SINCE = script("revoke"), script("revoked_since")


class Revocation(NamedTuple):
    """Since when something is revoked, and until when that is remembered (unix seconds)."""

    at: float
    ends: float


class View:
    """One process' copy. Pure: what came from Redis is told to it, and `now` (unix seconds) is an argument.

    Attributes:
        version: of the last revocation before which none is missing.
        changes: how often something was added.
    """

    def __init__(self) -> None:
        self.version = self.changes = 0
        self._entries: dict[str, Revocation] = {}
        self._swept = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def revoked(self, credential: Credential) -> bool:
        """Whether a credential is revoked: a key or token by its id, a user's tokens up to a moment.

        A token that does not say when it was made is as old as can be.
        """
        entries = self._entries
        if not entries:
            return False
        kind, tenant, subject, jti, issued_at = credential
        if kind == "key":
            return f"{tenant} k {subject}" in entries
        if kind == "token":
            if jti and f"{tenant} j {jti}" in entries:
                return True
            user = entries.get(f"{tenant} u {subject}")
            return user is not None and (issued_at is None or issued_at <= user.at)
        return False

    def published(self, message: bytes) -> None:
        """Take a message; when others were missed before it, `version` stays before those."""
        previous, _, line = message.partition(b" ")
        version = self._add(line)
        if int(previous) == self.version:
            self.version = version

    def read(self, line: bytes) -> None:
        """Take a line of `revoked_since`: all before it have been taken."""
        self.version = max(self.version, self._add(line))

    def forget_ended(self, now: float) -> None:
        """Drop what has ended, now and then."""
        if now - self._swept >= _SWEEP:
            self._swept = now
            self._entries = {name: entry for name, entry in self._entries.items() if entry.ends > now}

    def _add(self, line: bytes) -> int:
        version, at, ends, name = line.decode().split(" ", 3)
        entry = Revocation(int(at) / 1000, int(ends) / 1000)
        if self._entries.get(name) != entry:
            self._entries[name] = entry
            self.changes += 1
        return int(version)


class Revocations:
    """Revokes, and tells what is revoked. `clock` is unix seconds."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._loaded = False
        self._most = _LIMIT
        self.view = View()

    async def revoke(self, tenant: str, kind: Literal["j", "u"], value: str, *, ttl: int = REMEMBERED) -> Revocation:
        """Revoke a token by its id (`j`) or all tokens a user has until now (`u`), and remember it `ttl` seconds.

        Raises:
            Conflict: as many as can be are remembered.
            StoreUnavailable: Redis is away; whether it was recorded is not known.
        """
        most = {"per_tenant": PER_TENANT, "reserved": RESERVED, "total": TOTAL}
        verdict, *moments = await self._store.run(
            _REVOKE, TAG, tenant=tenant, kind=kind, value=value, ttl=ttl * 1000, **most
        )
        if verdict != b"ok":
            raise Conflict(
                f"As many revocations as can be are in force ({PER_TENANT} a tenant, {TOTAL} in all); "
                "revoke users instead of tokens, or change the signing key"
            )
        await self.catch_up()
        return Revocation(moments[0] / 1000, moments[1] / 1000)

    async def revoked(self, credential: Credential) -> bool:
        """Whether a credential is revoked, as far as this process knows.

        Raises:
            StoreUnavailable: it knows nothing yet, and Redis is away.
        """
        if not self._loaded:
            await self.catch_up()
        return self.view.revoked(credential)

    def known(self, credential: Credential) -> bool:
        """Whether this process knows already that a credential is revoked."""
        return self.view.revoked(credential)

    async def catch_up(self) -> None:
        """Read what has been revoked since the last time; raises StoreUnavailable."""
        anew = len(self.view) > self._most
        view = View() if anew else self.view
        lines = [b""] * _PAGE
        while len(lines) == _PAGE:
            lines = await self._store.run(_SINCE, TAG, since=view.version, limit=_PAGE)
            for line in lines:
                view.read(line)
        view.forget_ended(self._clock())
        if anew:
            self._most = max(_LIMIT, 2 * len(view))  # so many may be in force: do not start over each time
        self.view, self._loaded = view, True
