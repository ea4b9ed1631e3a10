"""Tokens: ours are read, nobody else's, and every refusal says why without saying too much."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.principals import Capability, Principal
from gateway.auth.tokens import MAX_TOKEN, Claims, SubscriptionGrant, Tokens
from gateway.errors import InvalidFields, TokenExpired, Unauthenticated

SECRET = b"0123456789abcdef0123456789abcdef"
NOW = 1_700_000_000.0
TOKENS = Tokens(SECRET)


def signed(claims: dict[str, Any], **options: Any) -> str:
    return jwt.encode(claims, options.pop("key", SECRET), **{"algorithm": "HS256", **options})


def test_a_token_from_any_library_is_read() -> None:
    claims = {
        "sub": "ann",
        "exp": NOW + 1,
        "iat": NOW + 1000,
        "jti": "j",
        "tenant": "acme",
        "info": {"name": "Ann", "list": []},
        "channels": ["news", "chat:1"],
        "subs": {"chat:1": {}, "chat:2": {"recover": True}},
        "caps": [{"channels": ["a:*"], "match": "wildcard", "allow": ["sub", "pub"]}],
        "aud": "somebody",
        "iss": "somebody",
        "other": 1,
    }
    assert TOKENS.verify(signed(claims), NOW) == Principal(
        tenant="acme",
        subject="ann",
        kind="token",
        caps=(Capability(channels=("a:*",), match="wildcard", allow=("sub", "pub")),),
        info=b'{"name":"Ann","list":[]}',
        expires_at=NOW + 1,
        jti="j",
        issued_at=NOW + 1000,
        channels=("news", "chat:1", "chat:2"),
        subs={"chat:1": b"{}", "chat:2": b'{"recover":true}'},
    )


def _lookalikes() -> list[str]:
    """Tokens with the header of a good one, of which something else is wrong or unusual."""
    good = signed({"sub": "ann", "exp": NOW + 1})
    header, body, signature = good.split(".")
    jws = jwt.PyJWS()
    return [
        signed({"sub": "ann"}, key=b"another secret of thirty-two bytes"),
        f"{header}.{body}.",
        f"{header}.{body}.{signature[:-1]}",
        f"{header}.{body}.{signature}=",
        f"{header}.{body}.{signature[:-1]}{chr(ord(signature[-1]) + 1)}",  # the same bytes, written otherwise
        f"{header}.{body[:-2]}.{signature}",
        f"{header}.{body}.{body}.{signature}",
        f"{header}..{signature}",
        jws.encode(b"not JSON", SECRET, algorithm="HS256"),
        _signed_text(header, "A"),
        _signed_text(header, "!!!!"),
        _signed_text(header, base64.urlsafe_b64encode(b"{}").decode()),
        signed({}, headers={"crit": ["exp"], "exp": 1}),
        signed({"sub": "bob"}),
        good,
    ]


def _signed_text(header: str, body: str) -> str:
    """Sign a body that may not be base64."""
    text = f"{header}.{body}"
    proof = hmac.digest(SECRET, text.encode(), "sha256")
    return f"{text}.{base64.urlsafe_b64encode(proof).decode().rstrip('=')}"


@pytest.mark.parametrize("token", _lookalikes())
def test_a_known_header_changes_no_verdict(token: str) -> None:
    def verdict(tokens: Tokens) -> object:
        try:
            return tokens.claims(token, NOW)
        except (TokenExpired, Unauthenticated) as error:
            return type(error), error.detail

    knowing = Tokens(SECRET)
    knowing.claims(signed({}), NOW)
    assert verdict(knowing) == verdict(Tokens(SECRET))


def test_an_empty_token_is_the_nobody_of_the_default_tenant() -> None:
    assert TOKENS.verify(signed({}), NOW) == Principal(tenant="default", subject="", kind="token")
    assert TOKENS.verify(signed({"info": None}), NOW).info == b""


def test_info_is_one_line_and_kept_to_the_byte() -> None:
    payload = b'{"info": {"n": [1.0, 1e400],\n "t": "a b"}}'
    token = jwt.PyJWS().encode(payload, SECRET, algorithm="HS256")
    assert TOKENS.verify(token, NOW).info == b'{"n":[1.0,1e400],"t":"a b"}'


@pytest.mark.parametrize("exp", [NOW, NOW - 1, 0])
def test_expiry_has_no_leeway(exp: float) -> None:
    with pytest.raises(TokenExpired):
        TOKENS.verify(signed({"exp": exp}), NOW)
    assert TOKENS.verify(signed({"exp": NOW + 0.5}), NOW).expires_at == NOW + 0.5


def test_not_before() -> None:
    with pytest.raises(Unauthenticated, match="nbf"):
        TOKENS.verify(signed({"nbf": NOW + 1}), NOW)


@pytest.mark.parametrize(
    ("claims", "named"),
    [
        ({"sub": 1}, "claim sub must be a string"),
        ({"sub": None}, "claim sub must be a string"),
        ({"exp": "soon"}, "claim exp must be"),
        ({"exp": True}, "claim exp must be"),
        ({"tenant": "a b"}, "claim tenant must be 1 to 64"),
        ({"tenant": ""}, "claim tenant must be 1 to 64"),
        ({"channels": "news"}, "claim channels must be an array"),
        ({"channels": ["a", "b c"]}, "claim channels/1 must be 1 to 200"),
        ({"subs": ["a"]}, "claim subs must be an object"),
        ({"subs": {"a b": {}}}, "claim subs/a b the name must be"),
        ({"caps": [{"channels": ["a"]}]}, "claim caps/0/allow is required"),
        ({"caps": [{"channels": ["a"], "allow": ["fly"]}]}, "claim caps/0/allow/0 must be one of: sub, pub, hst, prs"),
        ({"caps": [{"channels": ["a"], "allow": [], "match": "regex"}]}, "claim caps/0/match must be one of"),
        ({"jti": 1}, "claim jti"),
    ],
)
def test_wrong_claims_are_named(claims: dict[str, Any], named: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        TOKENS.verify(signed(claims), NOW)
    assert type(caught.value) is Unauthenticated
    assert named in caught.value.detail


def _unsigned() -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    return f"{head}.{base64.urlsafe_b64encode(b'{}').rstrip(b'=').decode()}."


def _tampered() -> str:
    head, _, signature = signed({"sub": "ann"}).split(".")
    return f"{head}.{base64.urlsafe_b64encode(json.dumps({'sub': 'bob'}).encode()).rstrip(b'=').decode()}.{signature}"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "..",
        "a.b.c",
        "é.é.é",
        "x" * (MAX_TOKEN + 1),
        _unsigned(),
        _tampered(),
        signed({}, key=b"another secret, which is long enough"),
        signed({}, algorithm="HS512", key=SECRET * 2),
        signed({}, algorithm="HS384", key=SECRET * 2),
        signed({}, headers={"crit": ["exp"], "exp": 1}),
        signed({}) + "x",
        signed({"pad": "x" * MAX_TOKEN}),
        jwt.PyJWS().encode(b"[]", SECRET, algorithm="HS256"),
        jwt.PyJWS().encode(b"not json", SECRET, algorithm="HS256"),
        jwt.PyJWS().encode(b"[" * 3000, SECRET, algorithm="HS256"),
        jwt.PyJWS().encode(rb'{"sub":"\ud800"}', SECRET, algorithm="HS256"),
    ],
)
def test_what_is_not_ours_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        TOKENS.verify(token, NOW)
    assert type(caught.value) is Unauthenticated
    assert SECRET.decode() not in caught.value.detail


@given(st.text(max_size=60) | st.lists(st.binary(max_size=20), min_size=3, max_size=3))
def test_no_text_breaks_the_reader(text: str | list[bytes]) -> None:
    token = text if isinstance(text, str) else ".".join(base64.urlsafe_b64encode(p).rstrip(b"=").decode() for p in text)
    with pytest.raises(Unauthenticated):
        TOKENS.verify(token, NOW)


def test_what_we_mint_we_and_others_read() -> None:
    claims = Claims(
        sub="ann",
        exp=int(NOW) + 60,
        iat=int(NOW),
        tenant="acme",
        info=msgspec.Raw(b'{"a":1.0}'),
        subs={"chat:1": msgspec.Raw(b"{}")},
        caps=(Capability(channels=("x",), allow=("sub",)),),
    )
    token = TOKENS.mint(claims)
    principal = TOKENS.verify(token, NOW)
    assert (principal.tenant, principal.subject, principal.info) == ("acme", "ann", b'{"a":1.0}')
    assert (principal.channels, principal.caps) == (("chat:1",), claims.caps)
    read = jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_exp": False})
    assert read["exp"] == NOW + 60
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}


def test_we_mint_nothing_endless_and_nothing_we_would_refuse() -> None:
    with pytest.raises(ValueError, match="end"):
        TOKENS.mint(Claims(sub="ann"))
    with pytest.raises(InvalidFields):
        TOKENS.mint(Claims(sub="ann", exp=1, info=msgspec.Raw(b'"%b"' % (b"x" * MAX_TOKEN))))


def test_a_subscription_token_grants_one_channel() -> None:
    token = signed({"sub": "ann", "channel": "chat:1", "exp": NOW + 9, "tenant": "acme", "info": 1})
    assert TOKENS.verify_subscription(token, NOW) == SubscriptionGrant("acme", "ann", "chat:1", NOW + 9, b"1")
    with pytest.raises(TokenExpired):
        TOKENS.verify_subscription(token, NOW + 9)


def test_the_two_kinds_do_not_stand_in_for_each_other() -> None:
    with pytest.raises(Unauthenticated, match="subscription token"):
        TOKENS.verify(signed({"sub": "ann", "channel": "chat:1"}), NOW)
    with pytest.raises(Unauthenticated, match="claim channel is missing"):
        TOKENS.verify_subscription(signed({"sub": "ann"}), NOW)
