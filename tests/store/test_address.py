"""Redis by URL: what is meant is understood, what is wrong is named, and no password is told."""

from __future__ import annotations

import pytest

from gateway.errors import ConfigurationError
from gateway.settings import load
from gateway.store.address import Node, RedisAddress

FULL_URL = (
    "rediss+sentinel://ann:p%40ss@a:1,[::1]:2,c/3"
    "?master=ours&sentinel_username=s&sentinel_password=s%3Ap&ssl_ca_certs=/ca.pem"
)
FULL = RedisAddress(
    kind="sentinel",
    nodes=(Node("a", 1), Node("::1", 2), Node("c", 26379)),
    tls=True,
    username="ann",
    password="p@ss",
    database=3,
    master="ours",
    sentinel_username="s",
    sentinel_password="s:p",
    authority="/ca.pem",
)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", RedisAddress("single", (Node("localhost", 6379),))),
        ("redis://", RedisAddress("single", (Node("127.0.0.1", 6379),))),
        ("redis://:secret@h:7/2", RedisAddress("single", (Node("h", 7),), password="secret", database=2)),
        ("rediss://u:p@[::1]:7", RedisAddress("single", (Node("::1", 7),), tls=True, username="u", password="p")),
        ("redis://[fe80::1]", RedisAddress("single", (Node("fe80::1", 6379),))),
        ("redis+sentinel://a/?master=m", RedisAddress("sentinel", (Node("a", 26379),), master="m")),
        ("redis+cluster://a:7000,b", RedisAddress("cluster", (Node("a", 7000), Node("b", 6379)))),
        ("rediss+cluster://u@a/0", RedisAddress("cluster", (Node("a", 6379),), tls=True, username="u")),
        (
            FULL_URL,
            FULL,
        ),
    ],
)
def test_what_a_url_means(url: str, expected: RedisAddress) -> None:
    assert RedisAddress.parse(url) == expected


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("", "must start with"),
        ("redis", "must start with"),
        ("http://:hunter2@x", "must start with"),
        ("redis+ring://:hunter2@x", "must start with"),
        ("redis://:hunter2@a,b", "one host"),
        ("redis://:hunter2@a:port", "'a:port'"),
        ("redis://:hunter2@a:0", "'a:0'"),
        ("redis://:hunter2@a:65536", "'a:65536'"),
        ("redis://:hunter2@a/x", "database"),
        ("redis+cluster://:hunter2@a/1", "database 0"),
        ("redis+cluster://:hunter2@a,,b", "''"),
        ("redis+sentinel://:hunter2@a", "master"),
        ("redis+sentinel://:hunter2@a?master=", "master"),
        ("redis+sentinel://:hunter2@a?master=m&color=red", "'color'"),
        ("redis://:hunter2@a?master=m", "'master'"),
        ("redis://:hunter2@a?ssl_ca_certs=/x", "rediss"),
    ],
)
def test_what_is_wrong_is_named(url: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"GATEWAY_REDIS_URL": url})
    assert "GATEWAY_REDIS_URL" in str(caught.value)
    assert named in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://:hunter2/x@h", "redis://:hunter2#x@h", "redis://:x?hunter2@h", "redis://:x/hunter2@h"]
)
def test_a_password_that_is_not_encoded_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="%2F %3F %23") as refused:
        RedisAddress.parse(url)
    assert "hunter2" not in str(refused.value)
