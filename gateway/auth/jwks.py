"""JSON Web Key sets (RFC 7517): which public keys are in one, and whether a token is signed with one of them. Pure.

A key verifies one algorithm, which follows from its type; what a token's header says about the algorithm must
agree with it and decides nothing (RFC 8725 sections 3.1 and 3.2). Keys we cannot use are left out: other types
and curves, symmetric ones, short RSA ones, keys for encryption.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK, PyJWS
from jwt.exceptions import PyJWTError

from gateway.auth.tokens import MAX_TOKEN
from gateway.errors import Unauthenticated

MAX_KEYS = 32
MAX_KID = 256
WITHOUT_KID = 4  # keys a token that names none is tried with
_MIN_RSA = 2048  # bits: RFC 7518 section 3.3

# (kty, crv) → the algorithm, and the members that are public.
_KINDS: dict[tuple[str, str | None], tuple[str, tuple[str, ...]]] = {
    ("RSA", None): ("RS256", ("kty", "n", "e")),
    ("EC", "P-256"): ("ES256", ("kty", "crv", "x", "y")),
    ("OKP", "Ed25519"): ("EdDSA", ("kty", "crv", "x")),
}
ALGORITHMS = frozenset(algorithm for algorithm, _ in _KINDS.values())


class Jwk(NamedTuple):
    """A public key and the one algorithm it is good for."""

    kid: str | None
    algorithm: str
    key: PyJWK


class _Set(msgspec.Struct):
    keys: list[msgspec.Raw]


class _Key(msgspec.Struct):
    """The members that are looked at."""

    kty: str
    kid: str | None = None
    use: str = "sig"
    alg: str | None = None
    key_ops: tuple[str, ...] = ("verify",)
    crv: str | None = None
    n: str = ""
    e: str = ""
    x: str = ""
    y: str = ""


class Header(msgspec.Struct):
    """The members of a token's header that are looked at before its signature."""

    alg: str = ""
    kid: str | None = None


class _Issuer(msgspec.Struct):
    iss: str | None = None


def parse_keys(document: bytes) -> tuple[Jwk, ...]:
    """Read a key set; of keys that can be used at most `MAX_KEYS`.

    Raises:
        ValueError: it is not a key set.
    """
    try:
        raw = msgspec.json.decode(document, type=_Set).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("not a JSON Web Key set") from None
    usable = (key for key in map(_parse_key, raw) if key is not None)
    return tuple(key for key, _ in zip(usable, range(MAX_KEYS), strict=False))


def _parse_key(raw: msgspec.Raw) -> Jwk | None:
    try:
        key = msgspec.json.decode(raw, type=_Key)
    except msgspec.DecodeError:
        return None
    kind = _KINDS.get((key.kty, key.crv if key.kty != "RSA" else None))
    if kind is None or key.use != "sig" or "verify" not in key.key_ops or len(key.kid or "") > MAX_KID:
        return None
    algorithm, members = kind
    if key.alg not in {None, algorithm}:
        return None
    try:
        made = PyJWK({name: getattr(key, name) for name in members}, algorithm)
    except (PyJWTError, ValueError):
        return None
    if isinstance(made.key, RSAPublicKey) and made.key.key_size < _MIN_RSA:
        return None
    return Jwk(key.kid, algorithm, made)


def matching(keys: Sequence[Jwk], header: Header) -> list[Jwk]:
    """Return the keys a token may be signed with: those of its `kid`, else the first few of its algorithm."""
    fit = [key for key in keys if key.algorithm == header.alg]
    if header.kid is None:
        return fit[:WITHOUT_KID]
    return [key for key in fit if key.kid == header.kid]


def peek_header(token: str) -> Header:
    """Read the header of a token before anything is proven; raises Unauthenticated."""
    return _peek(token, 0, Header)


def peek_issuer(token: str) -> str | None:
    """Read the issuer a token names before anything is proven; raises Unauthenticated."""
    return _peek(token, 1, _Issuer).iss


T = TypeVar("T")


def _peek(token: str, index: int, type_: type[T]) -> T:
    parts = token.split(".") if len(token) <= MAX_TOKEN and token.isascii() else []
    if len(parts) != 3:  # noqa: PLR2004 - RFC 7515 section 3.1
        raise Unauthenticated(f"The token is not a JWT of at most {MAX_TOKEN} bytes")
    part = parts[index].rstrip("=")
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)), type=type_)
    except (binascii.Error, ValueError, RecursionError):  # msgspec's and Unicode errors are ValueErrors
        raise Unauthenticated("The token's form is not valid") from None


def verified_payload(token: str, keys: Sequence[Jwk]) -> bytes:
    """Return the claims' JSON of a token signed with one of the keys.

    Raises:
        Unauthenticated: it is not.
    """
    jws = PyJWS()
    for key in keys:
        try:
            return bytes(jws.decode(token, key.key, algorithms=[key.algorithm]))
        except PyJWTError:
            continue
    raise Unauthenticated("The token's signature is not valid, or its key is not known")
