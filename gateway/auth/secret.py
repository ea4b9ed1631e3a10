"""The secret tokens and cursors are signed with: configured, or made once and kept in Redis."""

from __future__ import annotations

import secrets

from gateway.errors import StoreUnavailable
from gateway.settings import Settings
from gateway.store.redis import Store

KEY = "{keys}:secret"
_RANDOM = 32


async def server_secret(store: Store, settings: Settings) -> bytes:
    """Return `token_secret`, else a random one every process on this Redis agrees on.

    Raises:
        StoreUnavailable: none is configured and Redis is away.
    """
    if settings.token_secret is not None:
        return settings.token_secret.encode()
    async with store.guard():
        await store.client.set(KEY, secrets.token_hex(_RANDOM), nx=True)
        secret = await store.client.get(KEY)
    if not isinstance(secret, bytes):  # another process flushed Redis between the two
        raise StoreUnavailable
    return secret
