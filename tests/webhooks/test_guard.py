"""The address guard: its table of addresses, the spellings of a host, and the rules for URLs."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.webhooks.guard import (
    Address,
    AddressRefused,
    check_url,
    is_own_address,
    literal,
    networks,
    refusal,
)


def words(table: str) -> list[str]:
    return table.split()


REFUSED_NETWORKS = words("""
    0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
    192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
    168.63.129.16/32 ::/8 64:ff9b::/32 100::/64 2001::/23 2001:db8::/32 2002::/16 3fff::/20 5f00::/16
    fc00::/7 fe80::/10 fec0::/10 ff00::/8
""")

PUBLIC = words("""
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
    169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.88.98.255 192.167.255.255
    192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 168.63.129.15 168.63.129.17 2001:200::
    2001:4860:4860::8888 2003:: 2606:4700:4700::1111 2620:fe::fe 3ffe:ffff::
""")

# What `ipaddress.is_global` calls public on Python 3.11.
MISJUDGED = words("""
    ::127.0.0.1 64:ff9b::a9fe:a9fe 2002:7f00:1:: fec0::1 3fff::1 168.63.129.16 224.0.1.1 ff0e::1
""")

IN_DISGUISE = words("""
    :: ::1 ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1 64:ff9b::127.0.0.1
    64:ff9b:1::10.0.0.1 2001:0:4136:e378:8000:63bf:3fff:fdd2 fe80::1%eth0 fe80::1%1 2606:4700::1111%lo
    255.255.255.255 4000:: 1000::1 not-an-address 127.1 0x7f.1 0177.0.0.1 2130706433
""")


def nobody(_address: Address) -> bool:
    return False


def in_network(cidr: str) -> st.SearchStrategy[Address]:
    network = ipaddress.ip_network(cidr)
    low, high = int(network.network_address), int(network.broadcast_address)
    make = ipaddress.IPv4Address if network.version == 4 else ipaddress.IPv6Address
    return st.one_of(st.sampled_from([low, high]), st.integers(low, high)).map(make)


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6), st.sampled_from(REFUSED_NETWORKS).flatmap(in_network))


# --- the table ---


@given(st.sampled_from(REFUSED_NETWORKS).flatmap(in_network))
def test_every_address_of_the_table_is_refused(address: Address) -> None:
    assert refusal(address, own=nobody)
    assert refusal(str(address), own=nobody)


@pytest.mark.parametrize("address", MISJUDGED + IN_DISGUISE)
def test_disguised_and_misjudged_addresses_are_refused(address: str) -> None:
    assert refusal(address, own=nobody)


@pytest.mark.parametrize("address", PUBLIC)
def test_the_neighbours_of_the_table_are_let_through(address: str) -> None:
    assert refusal(address, own=nobody) is None


@given(addresses)
def test_what_is_let_through_is_public_to_the_standard_library_too(address: Address) -> None:
    if refusal(address, own=nobody) is None:
        assert address.is_global
        assert not (address.is_multicast)
        assert not (address.is_private)
        assert not (address.is_reserved)
        assert not (address.is_link_local)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_refused_inside_any_ipv6_wrapping(address: ipaddress.IPv4Address) -> None:
    for prefix in ("::ffff:", "::", "::ffff:0:", "64:ff9b::", "64:ff9b:1::"):
        assert refusal(f"{prefix}{address}", own=nobody)
    assert refusal(ipaddress.IPv6Address((0x2002 << 112) | (int(address) << 80)), own=nobody)


@given(addresses)
def test_the_allow_list_lets_through_what_it_names(address: Address) -> None:
    assert refusal(address, networks(["0.0.0.0/0", "::/0"]), own=nobody) is None
    assert refusal(address, networks([str(address)]), own=lambda _: True) is None
    other = ipaddress.ip_address("127.0.0.9" if address.version == 6 else "fd00::9")
    assert refusal(address, networks([str(other)]), own=nobody) == refusal(address, own=nobody)


def test_the_allow_list_does_not_reach_into_mapped_or_scoped_addresses() -> None:
    allow = networks(["127.0.0.0/8", "fe80::/10"])
    assert refusal("::ffff:127.0.0.1", allow)
    assert refusal("fe80::1%eth0", allow)
    assert refusal("fe80::1", allow) is None


def test_the_hosts_own_addresses_are_refused() -> None:
    assert is_own_address(ipaddress.ip_address("127.0.0.1"))
    assert not is_own_address(ipaddress.ip_address("203.0.113.77"))
    assert refusal("8.8.8.8", own=lambda _: True) == "is this host's own address"


@pytest.mark.parametrize(
    ("host", "meant"),
    [
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("0xa9fea9fe", "169.254.169.254"),
        ("::ffff:7f00:1", "::ffff:127.0.0.1"),
        ("example.com", None),
        ("1.2.3.4.5", None),
        ("256.1.1.1", None),
        ("", None),
        (".", None),
    ],
)
def test_literals_are_read_in_every_spelling(host: str, meant: str | None) -> None:
    assert literal(host) == (ipaddress.ip_address(meant) if meant else None)


# --- the URL ---


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "https://example.com:8443/hook?a=b#c",
        "http://93.184.216.34/",
        "https://[2606:4700:4700::1111]/",
        "https://bücher.example/",
        "http://example.com/@someone",
    ],
)
def test_ordinary_urls_pass(url: str) -> None:
    assert str(check_url(url).scheme) in url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/", "must start with"),
        ("file:///etc/passwd", "must start with"),
        ("gopher://example.com/", "must start with"),
        ("//example.com/", "must start with"),
        ("example.com", "must start with"),
        ("", "must start with"),
        ("http://", "names no host"),
        ("http:///path", "names no host"),
        ("http://user@example.com/", "user or password"),
        ("http://user:secret@example.com/", "user or password"),
        ("http://:@example.com/", "user or password"),
        ("http://@example.com/", "user or password"),
        ("http://example.com\\@127.0.0.1/", "backslashes"),
        ("http://exam\nple.com/", "control characters"),
        (" http://example.com/", "spaces"),
        ("http://example.com/\x7f", "control characters"),
        ("http://example.com:0/", "port 0"),
        ("http://example.com:99999/", "cannot be read"),
        ("http://[::1/", "cannot be read"),
        ("http://example.com/" + "a" * 2048, "2048 characters"),
        ("http://10.0.0.1/", "is private"),
        ("http://0xa9fea9fe/latest/meta-data", "metadata"),
        ("http://[fe80::1%25eth0]/", "network interface"),
    ],
)
def test_urls_that_break_a_rule_say_which(url: str, reason: str) -> None:
    with pytest.raises(AddressRefused, match=reason) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


def test_ports_can_be_limited() -> None:
    assert check_url("https://example.com/", ports=[443])
    with pytest.raises(AddressRefused, match="port 8443 is not allowed"):
        check_url("https://example.com:8443/", ports=[443])
