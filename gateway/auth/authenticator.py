"""From a credential to a principal, whatever kind of credential it is."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from gateway.auth.issuers import Issuers
from gateway.auth.jwks import ALGORITHMS, peek_header
from gateway.auth.keys import ROOT, KeyStore
from gateway.auth.principals import Credential, Principal
from gateway.auth.tokens import ALGORITHM, MAX_TOKEN, Claims, SubscriptionGrant, Tokens, grant_of_claims
from gateway.auth.tokens import principal_of_claims as principal_of
from gateway.errors import TokenRevoked, Unauthenticated

_JWT_DOTS = 2  # RFC 7515 section 3.1: header, payload, signature

Revoked = Callable[[Credential], Awaitable[bool]]


class Authenticator:
    """Reads API keys and tokens, for HTTP, SSE and WebSocket alike.

    Args:
        keys: the API keys.
        tokens: reads what is signed with our own secret.
        issuers: read what others signed with their private keys.
        revoked: whether a credential has been revoked; without it nothing ever is.
        clock: unix seconds.
    """

    def __init__(
        self,
        keys: KeyStore,
        tokens: Tokens,
        issuers: Issuers | None = None,
        *,
        revoked: Revoked | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._issuers = issuers or Issuers(())
        self._revoked = revoked
        self._clock = clock

    async def verify(self, credential: str) -> Principal:
        """Return who an API key or a JWT stands for.

        Raises:
            TokenExpired: the token was ours once; TokenRevoked when somebody ended it.
            Unauthenticated: it is neither a key nor a token of ours.
            KeysUnavailable: the token's issuer cannot be asked for its keys.
            StoreUnavailable: the key, or what has been revoked, could not be looked up.
        """
        if len(credential) > MAX_TOKEN:
            raise Unauthenticated(f"The credential is over {MAX_TOKEN} bytes")
        principal = await self._keys.lookup(credential)
        if principal is not None:
            # The root key is a setting: it needs no Redis, and ends when the setting does.
            if principal.subject != ROOT and await self._is_revoked(principal.credential):
                raise Unauthenticated("This API key has been revoked")
            return principal
        if credential.count(".") != _JWT_DOTS:
            raise Unauthenticated("This is neither an API key nor a token of ours")
        principal = principal_of(await self._claims(credential))
        if await self._is_revoked(principal.credential):
            raise TokenRevoked
        return principal

    async def verify_subscription(self, token: str) -> SubscriptionGrant:
        """Read a subscription token; the caller compares tenant, subject and channel.

        Raises:
            TokenExpired, Unauthenticated, KeysUnavailable, StoreUnavailable: as `verify`.
        """
        grant = grant_of_claims(await self._claims(token))
        if await self._is_revoked(grant.credential):
            raise TokenRevoked
        return grant

    async def _claims(self, token: str) -> Claims:
        header = peek_header(token)
        if header.alg == ALGORITHM:
            return self._tokens.claims(token, self._clock())
        if header.alg in ALGORITHMS:
            return await self._issuers.claims(token, header, self._clock())
        raise Unauthenticated("The token's algorithm is not accepted")

    async def _is_revoked(self, credential: Credential) -> bool:
        return self._revoked is not None and await self._revoked(credential)
