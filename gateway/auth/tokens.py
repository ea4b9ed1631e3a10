"""Subscriber tokens: JSON Web Tokens (RFC 7519) with the claims of DESIGN 3.4. Pure: `now` is an argument."""

from __future__ import annotations

import hmac
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from jwt import PyJWS
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import PyJWTError
from jwt.utils import base64url_decode, base64url_encode

from gateway.auth.principals import DEFAULT_TENANT, Capability, Credential, Principal
from gateway.errors import BadRequest, FieldError, InvalidFields, TokenExpired, Unauthenticated
from gateway.events import CHANNEL, TENANT
from gateway.web.decoding import decode

MAX_TOKEN = 8 * 1024
ALGORITHM = "HS256"
_MAX_HEADERS = 16

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
    """The claims we read; others are ignored, what `iss` and `aud` say as long as none are configured.

    Attributes:
        sub: the user.
        exp: unix seconds from which on the token is void; none: never.
        nbf: unix seconds before which it is void.
        iat: when it was made; not judged, clocks differ; a revocation by user compares with it.
        jti: its id.
        iss: who made it.
        aud: whom it is meant for: one name or several.
        tenant: the tenant; absent: the issuer's, or `default`.
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
    iss: str | None = None
    aud: str | tuple[str, ...] | None = None
    tenant: TenantName | None = None
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
    jti: str | None = None
    issued_at: float | None = None

    @property
    def credential(self) -> Credential:
        """What a revocation is compared with."""
        return Credential("token", self.tenant, self.subject, self.jti, self.issued_at)


class Expected(NamedTuple):
    """What an issuer's tokens must say; None is not looked at.

    Attributes:
        issuer: the claim `iss`.
        audience: one of the claim `aud`.
        tenant: the only tenant its tokens can be of; the claim may be missing.
        leeway: seconds the issuer's clock may be ahead of ours (claim `nbf`).
    """

    issuer: str | None = None
    audience: str | None = None
    tenant: str | None = None
    leeway: float = 0.0


class _OneSecret(HMACAlgorithm):
    """PyJWT's HMAC, which looks for keys of other kinds in a secret each time it is used: here once."""

    _prepared: bytes | None = None

    def __init__(self) -> None:
        super().__init__(HMACAlgorithm.SHA256)

    def prepare_key(self, key: str | bytes) -> bytes:
        if self._prepared is None:
            self._prepared = super().prepare_key(key)
        return self._prepared

    def sign(self, msg: bytes, key: bytes) -> bytes:
        return hmac.digest(key, msg, "sha256")  # without an object for it, three times as fast


class HS256:
    """HMAC with SHA-256 under a shared secret (RFC 7518 section 3.2); no other algorithm is accepted."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._hmac = _OneSecret()
        self._jws = PyJWS(algorithms=[])
        self._jws.register_algorithm(ALGORITHM, self._hmac)
        self._headers: set[str] = set()  # that PyJWS has accepted: an issuer's are all the same

    def payload(self, token: str) -> bytes:
        """Return the claims' JSON once the signature is right.

        Raises:
            Unauthenticated: it is no token, or not signed with our secret.
        """
        if len(token) > MAX_TOKEN or not token.isascii():
            raise Unauthenticated(f"The token is not a JWT of at most {MAX_TOKEN} bytes")
        known = self._known(token)
        if known is not None:
            return known
        try:
            payload = bytes(self._jws.decode(token, self._secret, algorithms=[ALGORITHM]))
        except PyJWTError:
            raise Unauthenticated("The token's form or signature is not valid") from None
        if len(self._headers) < _MAX_HEADERS:
            self._headers.add(token.partition(".")[0])
        return payload

    def _known(self, token: str) -> bytes | None:
        """The same without looking at a known header again, and at every letter: a tenth of PyJWS' time.

        None when anything is not as PyJWS would have written it; then PyJWS decides.
        """
        signed, _, signature = token.rpartition(".")
        header, _, body = signed.partition(".")
        if header not in self._headers:
            return None
        proof = base64url_encode(self._hmac.sign(signed.encode(), self._secret))
        if not hmac.compare_digest(proof, signature.encode()):
            return None
        try:
            payload = base64url_decode(body)
        except ValueError:
            return None
        return payload if base64url_encode(payload) == body.encode() else None

    def sign(self, payload: bytes) -> str:
        """Return the token for a claims' JSON."""
        return self._jws.encode(payload, self._secret, algorithm=ALGORITHM)


class Tokens:
    """Mints and reads the tokens made with our secret; with an issuer or audience they carry and need it."""

    def __init__(self, secret: bytes, *, issuer: str | None = None, audience: str | None = None) -> None:
        self._key = HS256(secret)
        self._expected = Expected(issuer, audience)

    def mint(self, claims: Claims) -> str:
        """Sign claims; `iss` and `aud` are ours to set.

        Raises:
            ValueError: without `exp`; what we hand out ends.
            InvalidFields: the token would be larger than we accept.
        """
        if claims.exp is None:
            raise ValueError("a token needs an end")
        claims = msgspec.structs.replace(claims, iss=self._expected.issuer, aud=self._expected.audience)
        if not bytes(claims.info):
            claims = msgspec.structs.replace(claims, info=_NULL)  # an empty Raw is a hole in the JSON, not an absence
        token = self._key.sign(msgspec.json.encode(claims))
        if len(token) > MAX_TOKEN:
            raise InvalidFields(errors=[FieldError("", f"makes a token of more than {MAX_TOKEN} bytes")])
        return token

    def claims(self, token: str, now: float) -> Claims:
        """Return what a token says, of either kind.

        Raises:
            TokenExpired: it was ours once.
            Unauthenticated: anything else is wrong with it; a sentence names the claim.
        """
        return read_claims(self._key.payload(token), now, self._expected)

    def verify(self, token: str, now: float) -> Principal:
        """Read a connection token; raises as `claims`."""
        return principal_of_claims(self.claims(token, now))

    def verify_subscription(self, token: str, now: float) -> SubscriptionGrant:
        """Read a subscription token; raises as `claims`."""
        return grant_of_claims(self.claims(token, now))


def read_claims(payload: bytes, now: float, expected: Expected) -> Claims:
    """Read and judge the claims of a token whose signature is right; the result names its tenant.

    Raises:
        TokenExpired: it was good once.
        Unauthenticated: anything else is wrong with it; a sentence names the claim.
    """
    claims = _read(payload, Claims)
    audiences = (claims.aud,) if isinstance(claims.aud, str) else claims.aud or ()
    if expected.issuer is not None and claims.iss != expected.issuer:
        raise Unauthenticated("The token is not from the issuer we know (claim iss)")
    if expected.audience is not None and expected.audience not in audiences:
        raise Unauthenticated("The token is not meant for us (claim aud)")
    if expected.tenant is not None and claims.tenant not in {None, expected.tenant}:
        raise Unauthenticated("The token's issuer does not speak for this tenant (claim tenant)")
    if claims.exp is not None and claims.exp <= now:
        raise TokenExpired
    if claims.nbf is not None and claims.nbf > now + expected.leeway:
        raise Unauthenticated("The token is not valid yet (claim nbf)")
    return msgspec.structs.replace(claims, tenant=claims.tenant or expected.tenant or DEFAULT_TENANT)


def principal_of_claims(claims: Claims) -> Principal:
    """Return who a connection token stands for; raises Unauthenticated for a subscription token."""
    if claims.channel is not None:
        raise Unauthenticated("This is a subscription token (claim channel); it identifies nobody")
    return Principal(
        tenant=claims.tenant or DEFAULT_TENANT,
        subject=claims.sub,
        kind="token",
        caps=claims.caps,
        info=_info(claims),
        expires_at=claims.exp,
        jti=claims.jti,
        issued_at=claims.iat,
        channels=tuple(dict.fromkeys((*claims.channels, *claims.subs))),
        subs={channel: bytes(options) for channel, options in claims.subs.items()} or None,
    )


def grant_of_claims(claims: Claims) -> SubscriptionGrant:
    """Return what a subscription token grants; whether it is this user's and this channel's the caller compares.

    Raises:
        Unauthenticated: it is none.
    """
    if claims.channel is None:
        raise Unauthenticated("The token's claim channel is missing")
    tenant = claims.tenant or DEFAULT_TENANT
    return SubscriptionGrant(
        tenant, claims.sub, claims.channel, claims.exp, _info(claims), jti=claims.jti, issued_at=claims.iat
    )


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
