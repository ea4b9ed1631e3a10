"""Tokens of other issuers: read by their public keys, whatever an attacker writes into them."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from gateway.auth.authenticator import Authenticator
from gateway.auth.issuers import Issuer, Issuers
from gateway.auth.jwks import MAX_KEYS, Header, matching, parse_keys
from gateway.auth.keyring import Keyring
from gateway.auth.keys import KeyStore
from gateway.auth.tokens import MAX_TOKEN, Claims, Expected, Tokens
from gateway.errors import TokenExpired, Unauthenticated
from gateway.settings import Settings
from gateway.store.redis import Store
from tests.auth.signers import Signer, key_set

SECRET = b"0123456789abcdef0123456789abcdef"
RSA, EC, ED = Signer("RS256", "r"), Signer("ES256", "e"), Signer("EdDSA", "d")
ACME, BETA = Signer("ES256", "shared", 1), Signer("ES256", "shared", 2)
GOOD: dict[str, Any] = {"iss": "https://acme", "aud": "us"}


def ring(*signers: Signer) -> Keyring:
    async def fetch() -> bytes:
        return key_set(*signers)

    return Keyring("test", fetch)


@pytest.fixture
async def reader(store: Store, settings: Settings) -> AsyncIterator[Authenticator]:
    acme = Issuer("acme", Expected("https://acme", "us", "acme", 5.0), ring(RSA, EC, ED, ACME))
    beta = Issuer("beta", Expected("https://beta", None, "beta"), ring(BETA))
    issuers = Issuers([acme, beta])
    tokens = Tokens(SECRET, issuer="https://here", audience="us")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(issuer.keyring.run()) for issuer in issuers.issuers]
        yield Authenticator(KeyStore(store, settings), tokens, issuers)
        for task in tasks:
            task.cancel()


@pytest.mark.parametrize("signer", [RSA, EC, ED])
async def test_a_token_of_every_algorithm_is_read(reader: Authenticator, signer: Signer) -> None:
    token = signer.token(**GOOD, jti="j", iat=5, caps=[{"channels": ["a"], "allow": ["sub"]}])
    principal = await reader.verify(token)
    assert (principal.tenant, principal.subject, principal.kind) == ("acme", "ann", "token")
    assert (principal.jti, principal.issued_at, len(principal.caps)) == ("j", 5, 1)
    grant = await reader.verify_subscription(signer.token(**GOOD, channel="news"))
    assert (grant.tenant, grant.channel) == ("acme", "news")


async def test_a_token_may_name_its_own_tenant_and_no_key(reader: Authenticator) -> None:
    assert (await reader.verify(RSA.token(**GOOD, tenant="acme"))).tenant == "acme"
    bare = jwt.encode({"sub": "ann", **GOOD, "exp": time.time() + 9}, RSA.private, "RS256")
    assert (await reader.verify(bare)).subject == "ann"
    assert (await reader.verify(BETA.token(iss="https://beta", aud=["x", "y"]))).tenant == "beta"


async def test_our_own_tokens_need_issuer_and_audience_too(reader: Authenticator) -> None:
    ours = Tokens(SECRET, issuer="https://here", audience="us").mint(Claims(sub="ann", exp=time.time() + 60))
    assert (await reader.verify(ours)).subject == "ann"
    for wrong in ({}, {"iss": "https://here"}, {"aud": "us", "iss": "https://acme"}):
        token = jwt.encode({"sub": "ann", **wrong}, SECRET, "HS256")
        with pytest.raises(Unauthenticated, match=r"claim (iss|aud)"):
            await reader.verify(token)


def _segment(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _with_header(token: str, **header: Any) -> str:
    return ".".join([_segment(header), *token.split(".")[1:]])


def _hmac_with_the_public_key(form: PublicFormat, encoding: Encoding) -> str:
    public = RSA.private.public_key().public_bytes(encoding, form)
    signed = jwt.PyJWS()
    payload = json.dumps({**GOOD, "sub": "root", "exp": time.time() + 60}).encode()
    # PyJWT refuses such a key when signing; an attacker does not.
    signed.get_algorithm_by_name("HS256").prepare_key = lambda key: key  # type: ignore[method-assign]
    return signed.encode(payload, public, "HS256", headers={"kid": "r"})


def _iss_is_a_number() -> str:
    payload = json.dumps({"iss": 1, "aud": "us"}).encode()
    return jwt.PyJWS().encode(payload, RSA.private, "RS256", headers={"kid": "r"})


def _tampered(token: str) -> str:
    head, _, signature = token.split(".")
    return f"{head}.{_segment({**GOOD, 'sub': 'root'})}.{signature}"


HOSTILE: dict[str, Callable[[], str]] = {
    "alg none": lambda: _with_header(RSA.token(**GOOD), alg="none", kid="r").rpartition(".")[0] + ".",
    "alg none, signature kept": lambda: _with_header(RSA.token(**GOOD), alg="none", kid="r"),
    "no alg": lambda: _with_header(RSA.token(**GOOD), kid="r"),
    "alg is no text": lambda: _with_header(RSA.token(**GOOD), alg=["RS256"], kid="r"),
    "alg in another case": lambda: _with_header(RSA.token(**GOOD), alg="rs256", kid="r"),
    "HS256 with the PEM of the public key": lambda: _hmac_with_the_public_key(
        PublicFormat.SubjectPublicKeyInfo, Encoding.PEM
    ),
    "HS256 with the DER of the public key": lambda: _hmac_with_the_public_key(
        PublicFormat.SubjectPublicKeyInfo, Encoding.DER
    ),
    "RS256 on the id of an EC key": lambda: _with_header(RSA.token(**GOOD), alg="RS256", kid="e"),
    "ES256 on the id of an RSA key": lambda: _with_header(EC.token(**GOOD), alg="ES256", kid="r"),
    "PS256 on the id of an RSA key": lambda: jwt.encode(GOOD, RSA.private, "PS256", headers={"kid": "r"}),
    "RS512 on the id of an RSA key": lambda: jwt.encode(GOOD, RSA.private, "RS512", headers={"kid": "r"}),
    "unknown kid": lambda: RSA.token(**GOOD, headers={"kid": "other"}),
    "empty kid": lambda: RSA.token(**GOOD, headers={"kid": ""}),
    "huge kid": lambda: RSA.token(**GOOD, headers={"kid": "r" * 1000}),
    "kid is no text": lambda: _with_header(RSA.token(**GOOD), alg="RS256", kid=7),
    "a key of its own in the header": lambda: Signer("ES256", "x", 9).token(**GOOD, headers={"jwk": EC.jwk}),
    "signed by somebody else under a known kid": lambda: Signer("ES256", "e", 9).token(**GOOD),
    "unknown critical header": lambda: RSA.token(**GOOD, headers={"crit": ["x"], "x": 1}),
    "another issuer's name": lambda: ACME.token(iss="https://beta"),
    "another issuer's key": lambda: BETA.token(**GOOD),
    "unknown issuer": lambda: RSA.token(iss="https://nobody", aud="us"),
    "no issuer": lambda: RSA.token(aud="us"),
    "iss is no text": _iss_is_a_number,
    "wrong audience": lambda: RSA.token(iss="https://acme", aud="them"),
    "no audience": lambda: RSA.token(iss="https://acme"),
    "audience is a number": lambda: RSA.token(iss="https://acme", aud=7),
    "another tenant": lambda: RSA.token(**GOOD, tenant="beta"),
    "the default tenant": lambda: RSA.token(**GOOD, tenant="default"),
    "not yet": lambda: RSA.token(**GOOD, nbf=time.time() + 60),
    "tampered": lambda: _tampered(RSA.token(**GOOD)),
    "truncated": lambda: RSA.token(**GOOD)[:-10],
    "huge": lambda: RSA.token(**GOOD, pad="x" * MAX_TOKEN),
    "payload is no object": lambda: jwt.PyJWS().encode(b"[]", EC.private, "ES256", headers={"kid": "e"}),
    "deep payload": lambda: jwt.PyJWS().encode(b"[" * 4000, EC.private, "ES256", headers={"kid": "e"}),
    "detached payload": lambda: jwt.PyJWS().encode(
        b"{}", EC.private, "ES256", headers={"kid": "e", "b64": False}, is_payload_detached=True
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_token_is_refused(reader: Authenticator, name: str) -> None:
    token = HOSTILE[name]()
    for read in (reader.verify, reader.verify_subscription):
        with pytest.raises(Unauthenticated) as caught:
            await read(token)
        assert type(caught.value) is Unauthenticated


async def test_an_expired_token_is_told_so_when_all_else_is_right(reader: Authenticator) -> None:
    with pytest.raises(TokenExpired):
        await reader.verify(RSA.token(**GOOD, exp=time.time() - 1))
    with pytest.raises(Unauthenticated) as caught:
        await reader.verify(RSA.token(iss="https://acme", aud="them", exp=time.time() - 1))
    assert type(caught.value) is Unauthenticated


async def test_an_issuers_clock_may_be_a_little_ahead(reader: Authenticator) -> None:
    assert (await reader.verify(RSA.token(**GOOD, nbf=time.time() + 2))).subject == "ann"


def _short_rsa() -> dict[str, Any]:
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - the point of the test
    return dict(RSAAlgorithm.to_jwk(key.public_key(), as_dict=True))


@pytest.mark.parametrize(
    "key",
    [
        {"kty": "oct", "k": "AAAA", "alg": "HS256"},
        {**RSA.jwk, "use": "enc"},
        {**RSA.jwk, "alg": "RS512"},
        {**RSA.jwk, "alg": "HS256"},
        {**RSA.jwk, "key_ops": ["encrypt"]},
        {**RSA.jwk, "n": ""},
        {**RSA.jwk, "n": 7},
        {**EC.jwk, "crv": "P-384"},
        {**EC.jwk, "x": "AAAA"},
        {**ED.jwk, "crv": "X25519"},
        {**RSA.jwk, "kid": "x" * 300},
        {"kty": "RSA"},
        "text",
        None,
        [],
    ],
)
def test_a_key_that_cannot_be_used_is_left_out(key: object) -> None:
    document = json.dumps({"keys": [key, EC.jwk]}).encode()
    assert [found.kid for found in parse_keys(document)] == ["e"]


def test_short_rsa_keys_are_left_out_and_private_parts_ignored() -> None:
    assert parse_keys(json.dumps({"keys": [_short_rsa()]}).encode()) == ()
    private = {**RSAAlgorithm.to_jwk(RSA.private, as_dict=True), "kid": "p", "key_ops": ["verify"]}
    (found,) = parse_keys(json.dumps({"keys": [private]}).encode())
    assert isinstance(found.key.key, rsa.RSAPublicKey)


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":1}', b"<html>", b"[" * 9999, b"\xff"]
)
def test_what_is_no_key_set(document: bytes) -> None:
    with pytest.raises(ValueError, match="JSON Web Key set"):
        parse_keys(document)


def test_keys_are_bounded_and_few_are_tried_without_an_id() -> None:
    keys = parse_keys(json.dumps({"keys": [{**EC.jwk, "kid": str(n)} for n in range(100)]}).encode())
    assert len(keys) == MAX_KEYS
    assert len(matching(keys, Header("ES256"))) == 4
    assert [key.kid for key in matching(keys, Header("ES256", "7"))] == ["7"]
    assert matching(keys, Header("RS256", "7")) == []
