"""API keys: `gk_<random>`, kept in Redis as SHA-256 hashes under their own hash tag.

`{keys}:key:<hash>` is a hash (id, tenant, name, scopes, created_at in ms); `{keys}:of:<tenant>` maps the ids
of a tenant's keys to their hashes. Both change only in scripts, together; one that is deleted is also written
down as revoked (`gateway.auth.revocation`), so that what it opened ends everywhere. A key has 256 random bits,
so a plain hash cannot be guessed back.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gateway.auth.cache import Cache
from gateway.auth.capabilities import has_scope
from gateway.auth.principals import DEFAULT_TENANT, Principal, Scope
from gateway.auth.revocation import KEY_REMEMBERED, PER_TENANT, TAG, script
from gateway.errors import Conflict, Forbidden, NotFound
from gateway.events import new_id
from gateway.settings import Settings
from gateway.store.redis import Store

PREFIX = "gk_"
ROOT = "root"
MAX_KEY = 128
MAX_KEYS = 1000
CACHE_TTL = 5.0
CACHE_SIZE = 10_000
_RANDOM = 32

_CREATE, _REVOKE = script("create_key"), script("revoke_key")


class Key(NamedTuple):
    """An API key without its secret; `created_at` is unix seconds."""

    id: str
    tenant: str
    name: str
    scopes: tuple[str, ...]
    created_at: float


def require_operator(principal: Principal) -> None:
    """Insist that a caller may do what concerns all tenants: a key of the default tenant with the scope `admin`.

    Raises:
        Forbidden: it may not.
    """
    require(principal, "admin")
    if principal.tenant != DEFAULT_TENANT:
        raise Forbidden(f"This concerns all tenants: it needs a key of the tenant {DEFAULT_TENANT}")


def require(principal: Principal, scope: Scope) -> None:
    """Insist that a caller holds a scope.

    Raises:
        Forbidden: it does not; the scope is named.
    """
    if principal.kind != "key":
        raise Forbidden(f"This needs an API key with the scope {scope}")
    if not has_scope(principal, scope):
        raise Forbidden(f"This API key does not have the scope {scope}")


class KeyStore:
    """Creates, finds and revokes API keys.

    A look-up is remembered for `CACHE_TTL` seconds. That another process accepts a revoked key for so long is
    prevented by the `Authenticator`, which also asks what has been revoked.
    """

    def __init__(self, store: Store, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._root = _digest(settings.root_key) if settings.root_key else None
        # Two caches, so that a flood of invented keys cannot push the real ones out.
        self._known: Cache[Principal] = Cache(CACHE_SIZE, CACHE_TTL, monotonic)
        self._unknown: Cache[bool] = Cache(CACHE_SIZE, CACHE_TTL, monotonic)

    async def create(self, tenant: str, name: str, scopes: Sequence[str]) -> tuple[Key, str]:
        """Make a key; its token is returned here and never again.

        Raises:
            Conflict: the tenant has `MAX_KEYS` keys.
            StoreUnavailable: Redis is away.
        """
        token = PREFIX + secrets.token_urlsafe(_RANDOM)
        key = Key(new_id("key_"), tenant, name, tuple(sorted(set(scopes))), int(time.time() * 1000) / 1000)
        arguments = {
            **_write(key),
            "digest": _digest(token),
            "most": MAX_KEYS,
            "per_tenant": PER_TENANT,
        }
        if not await self._store.run(_CREATE, TAG, **arguments):
            raise Conflict(
                f"This tenant has {MAX_KEYS} API keys or has just revoked very many; revoke some or wait a day"
            )
        return key, token

    async def list(self, tenant: str) -> list[Key]:
        """List a tenant's keys, oldest first; raises StoreUnavailable."""
        async with self._store.guard():
            digests = await self._store.client.hvals(_index(tenant))
            async with self._store.client.pipeline(transaction=False) as pipe:
                for digest in digests:
                    pipe.hgetall(_record(_text(digest)))
                records = await pipe.execute()
        return sorted(_read(record) for record in records if record)

    async def revoke(self, tenant: str, key_id: str) -> None:
        """Delete a key.

        Raises:
            NotFound: the tenant has no such key.
            StoreUnavailable: Redis is away.
        """
        digest = await self._store.run(_REVOKE, TAG, tenant=tenant, id=key_id, ttl=KEY_REMEMBERED * 1000)
        if digest is None:
            raise NotFound("There is no such API key")
        self._known.forget(_text(digest))

    async def lookup(self, token: str) -> Principal | None:
        """Return who a key belongs to, or None when it is no key of ours.

        Raises:
            StoreUnavailable: Redis is away and the key is not remembered; the root key needs no Redis.
        """
        usual = token.startswith(PREFIX) and len(token) <= MAX_KEY
        if self._root is None and not usual:
            return None  # most are tokens: there is nothing to compare them with
        digest = _digest(token)
        if self._root is not None and hmac.compare_digest(digest, self._root):
            return Principal(tenant=DEFAULT_TENANT, subject=ROOT, kind="key", scopes=frozenset({"*"}))
        if not usual or self._unknown.get(digest):
            return None
        return self._known.get(digest) or await self._fetch(digest)

    async def is_live(self, principal: Principal) -> bool:
        """Whether the key a principal came with has not been revoked since; raises StoreUnavailable."""
        if principal.subject == ROOT:
            return self._root is not None
        async with self._store.guard():
            return bool(await self._store.client.hexists(_index(principal.tenant), principal.subject))

    async def _fetch(self, digest: str) -> Principal | None:
        async with self._store.guard():
            record = await self._store.client.hgetall(_record(digest))
        if not record:
            self._unknown.put(digest, value=True)
            return None
        key = _read(record)
        principal = Principal(tenant=key.tenant, subject=key.id, kind="key", scopes=frozenset(key.scopes))
        self._known.put(digest, principal)
        return principal


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _record(digest: str) -> str:
    return f"{TAG}key:{digest}"


def _index(tenant: str) -> str:
    return f"{TAG}of:{tenant}"


def _text(value: bytes | str) -> str:
    """The driver's types leave open whether it decodes; ours does not."""
    return value if isinstance(value, str) else value.decode()


def _write(key: Key) -> dict[str, str]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": " ".join(key.scopes),
        "created_at": str(round(key.created_at * 1000)),
    }


def _read(record: Mapping[bytes | str, bytes | str]) -> Key:
    text = {_text(name): _text(value) for name, value in record.items()}
    scopes = tuple(text["scopes"].split())
    return Key(text["id"], text["tenant"], text["name"], scopes, int(text["created_at"]) / 1000)
