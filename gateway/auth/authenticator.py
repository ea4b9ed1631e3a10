"""From a credential to a principal, whatever kind of credential it is."""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.auth.keys import KeyStore
from gateway.auth.principals import Principal
from gateway.auth.tokens import MAX_TOKEN, SubscriptionGrant, Tokens
from gateway.errors import Unauthenticated

_JWT_DOTS = 2  # RFC 7515 section 3.1: header, payload, signature


class Authenticator:
    """Reads API keys and tokens, for HTTP, SSE and WebSocket alike. `clock` is unix seconds."""

    def __init__(self, keys: KeyStore, tokens: Tokens, *, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._tokens = tokens
        self._clock = clock

    async def verify(self, credential: str) -> Principal:
        """Return who an API key or a JWT stands for.

        Raises:
            TokenExpired: the token was ours once.
            Unauthenticated: it is neither a key nor a token of ours.
            StoreUnavailable: the key could not be looked up.
        """
        if len(credential) > MAX_TOKEN:
            raise Unauthenticated(f"The credential is over {MAX_TOKEN} bytes")
        principal = await self._keys.lookup(credential)
        if principal is not None:
            return principal
        if credential.count(".") == _JWT_DOTS:
            return self._tokens.verify(credential, self._clock())
        raise Unauthenticated("This is neither an API key nor a token of ours")

    async def verify_subscription(self, token: str) -> SubscriptionGrant:
        """Read a subscription token; the caller compares tenant, subject and channel.

        Raises:
            TokenExpired, Unauthenticated: as `verify`.
        """
        return self._tokens.verify_subscription(token, self._clock())
