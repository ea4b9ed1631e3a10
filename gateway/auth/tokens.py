"""Subscriber tokens: JSON Web Tokens (RFC 7519) with the claims of DESIGN 3.4. Pure: `now` is an argument."""

from __future__ import annotations

from typing import Annotated, NamedTuple, Protocol, TypeVar

import msgspec
from jwt import PyJWS
from jwt.exceptions import PyJWTError

from gateway.auth.principals import DEFAULT_TENANT, Capability, Principal
from gateway.errors import BadRequest, FieldError, InvalidFields, TokenExpired, Unauthenticated
from gateway.events import CHANNEL, TENANT
from gateway.web.decoding import decode

MAX_TOKEN = 8 * 1024
ALGORITHM = "HS256"

ChannelName = Annotated[
    str,
    msgspec.Meta(pattern=f"^{CHANNEL.pattern}", description="1 to 200 characters of A-Z a-z 0-9 _ . : @ / -"),
]
TenantName = Annotated[
    str, msgspec.Meta(pattern=f"^{TENANT.pattern}", description="1 to 64 characters of A-Z a-z 0-9 _ -")
]
NumericDate = int | float
_NULL = msgspec.Raw(b"null")


class Claims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The claims we read; others are ignored, `aud` and `iss` as long as none are configured.

    Attributes:
        sub: the user.
        exp: unix seconds from which on the token is void; none: never.
        nbf: unix seconds before which it is void.
        iat: when it was made; not judged, clocks differ.
        jti: its id.
        tenant: the tenant.
        info: what subscribers are told about the user, any JSON.
        channels: server-side subscriptions of a WebSocket.
        subs: the same with options by channel.
        caps: what it may do.
        channel: makes it a subscription token, good for this one channel and nothing else.
    """

    sub: str = ""
    exp: NumericDate | None = None
    nbf: NumericDate | None = None
    iat: NumericDate | None = None
    jti: str | None = None
    tenant: TenantName = DEFAULT_TENANT
    info: msgspec.Raw = msgspec.Raw(b"")
    channels: tuple[ChannelName, ...] = ()
    subs: dict[ChannelName, msgspec.Raw] = {}
    caps: tuple[Capability, ...] = ()
    channel: ChannelName | None = None


class SubscriptionGrant(NamedTuple):
    """What a subscription token grants: one channel to one user of one tenant."""

    tenant: str
    subject: str
    channel: str
    expires_at: float | None
    info: bytes


class Verifier(Protocol):
    """Tells whether a token is ours. HS256 here; public keys (JWKS) fit in the same place."""

    def payload(self, token: str) -> bytes:
        """Return the claims' JSON once the signature is right; raises Unauthenticated."""


class HS256:
    """HMAC with SHA-256 under a shared secret (RFC 7518 section 3.2); no other algorithm is accepted."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._jws = PyJWS()

    def payload(self, token: str) -> bytes:
        """Return the claims' JSON once the signature is right.

        Raises:
            Unauthenticated: it is no token, or not signed with our secret.
        """
        if len(token) > MAX_TOKEN or not token.isascii():
            raise Unauthenticated(f"The token is not a JWT of at most {MAX_TOKEN} bytes")
        try:
            return bytes(self._jws.decode(token, self._secret, algorithms=[ALGORITHM]))
        except PyJWTError:
            raise Unauthenticated("The token's form or signature is not valid") from None

    def sign(self, payload: bytes) -> str:
        """Return the token for a claims' JSON."""
        return self._jws.encode(payload, self._secret, algorithm=ALGORITHM)


class Tokens:
    """Mints and reads subscriber tokens."""

    def __init__(self, secret: bytes, verifier: Verifier | None = None) -> None:
        self._signer = HS256(secret)
        self._verifier = verifier or self._signer

    def mint(self, claims: Claims) -> str:
        """Sign claims.

        Raises:
            ValueError: without `exp`; what we hand out ends.
            InvalidFields: the token would be larger than we accept.
        """
        if claims.exp is None:
            raise ValueError("a token needs an end")
        if not bytes(claims.info):
            claims = msgspec.structs.replace(claims, info=_NULL)  # an empty Raw is a hole in the JSON, not an absence
        token = self._signer.sign(msgspec.json.encode(claims))
        if len(token) > MAX_TOKEN:
            raise InvalidFields(errors=[FieldError("", f"makes a token of more than {MAX_TOKEN} bytes")])
        return token

    def verify(self, token: str, now: float) -> Principal:
        """Read a connection token.

        Raises:
            TokenExpired: it was ours once.
            Unauthenticated: anything else is wrong with it; a sentence names the claim.
        """
        claims = self._claims(token, now)
        if claims.channel is not None:
            raise Unauthenticated("This is a subscription token (claim channel); it identifies nobody")
        return Principal(
            tenant=claims.tenant,
            subject=claims.sub,
            kind="token",
            caps=claims.caps,
            info=_info(claims),
            expires_at=claims.exp,
            jti=claims.jti,
            channels=tuple(dict.fromkeys((*claims.channels, *claims.subs))),
            subs={channel: bytes(options) for channel, options in claims.subs.items()} or None,
        )

    def verify_subscription(self, token: str, now: float) -> SubscriptionGrant:
        """Read a subscription token; whether it is this user's and this channel's is for the caller to compare.

        Raises:
            TokenExpired, Unauthenticated: as `verify`.
        """
        claims = self._claims(token, now)
        if claims.channel is None:
            raise Unauthenticated("The token's claim channel is missing")
        return SubscriptionGrant(claims.tenant, claims.sub, claims.channel, claims.exp, _info(claims))

    def _claims(self, token: str, now: float) -> Claims:
        claims = _read(self._verifier.payload(token), Claims)
        if claims.exp is not None and claims.exp <= now:
            raise TokenExpired
        if claims.nbf is not None and claims.nbf > now:
            raise Unauthenticated("The token is not valid yet (claim nbf)")
        return claims


T = TypeVar("T")


def _read(payload: bytes, type_: type[T]) -> T:
    try:
        return decode(payload, type_)
    except BadRequest:
        raise Unauthenticated("The token's claims are not JSON") from None
    except InvalidFields as error:
        pointer, rule = error.errors[0]
        what = f"claim {pointer.removeprefix('/')}" if pointer else "set of claims"
        raise Unauthenticated(f"The token's {what} {rule}") from None


def _info(claims: Claims) -> bytes:
    info = bytes(claims.info)
    return b"" if info == b"null" else info
