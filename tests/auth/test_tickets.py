"""Tickets on a real Redis: one opening, then only with proof."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.keys import KeyStore
from gateway.auth.principals import ANONYMOUS, Capability, Principal
from gateway.auth.tickets import LONGEST, OPENS_WITHIN, TAG, Tickets, sign_cursor, ticket_hash, verify_cursor
from gateway.errors import Forbidden, StoreUnavailable, TokenExpired, Unauthenticated
from gateway.settings import Settings
from gateway.store.redis import Store
from tests.auth.conftest import ROOT_KEY

SECRET = b"s" * 32


def ann(expires_at: float | None = None) -> Principal:
    return Principal(
        tenant="acme",
        subject="änn",
        kind="token",
        caps=(Capability(channels=("a",), allow=("sub",)),),
        info=b'{"n":1.0}',
        expires_at=expires_at,
        channels=("news",),
    )


@pytest.fixture
def tickets(store: Store, settings: Settings) -> Tickets:
    return Tickets(store, KeyStore(store, settings))


async def test_a_ticket_opens_once(tickets: Tickets) -> None:
    ticket, _ = await tickets.issue(ann())
    assert await tickets.open(ticket, proven=False) == ann()
    with pytest.raises(Unauthenticated, match="has been used"):
        await tickets.open(ticket, proven=False)


async def test_of_two_at_once_one_wins(tickets: Tickets) -> None:
    for _ in range(20):
        ticket, _ = await tickets.issue(ann())
        answers = await asyncio.gather(*(tickets.open(ticket, proven=False) for _ in range(4)), return_exceptions=True)
        assert [answer for answer in answers if answer == ann()] == [ann()]
        assert sum(isinstance(answer, Unauthenticated) for answer in answers) == 3


async def test_a_reconnect_needs_proof(tickets: Tickets) -> None:
    ticket, _ = await tickets.issue(ann())
    await tickets.open(ticket, proven=False)
    for _ in range(3):
        assert await tickets.open(ticket, proven=True) == ann()


async def test_proof_stands_for_a_forgotten_opening(tickets: Tickets) -> None:
    ticket, _ = await tickets.issue(ann())
    assert await tickets.open(ticket, proven=True) == ann()


async def test_the_first_opening_must_come_soon(tickets: Tickets, store: Store) -> None:
    ticket, _ = await tickets.issue(ann())
    issued = int((time.time() - OPENS_WITHIN - 1) * 1000)
    await store.client.hset(TAG + ticket_hash(ticket), "issued", str(issued))
    with pytest.raises(Unauthenticated, match="60 seconds"):
        await tickets.open(ticket, proven=False)


@pytest.mark.parametrize("ticket", ["", "unknown", "x" * 1000, "\ud800"])
async def test_unknown_tickets(tickets: Tickets, ticket: str) -> None:
    for proven in (True, False):
        with pytest.raises(Unauthenticated, match="unknown"):
            await tickets.open(ticket, proven=proven)


async def test_only_the_hash_is_stored_and_it_ends_with_the_principal(tickets: Tickets, store: Store) -> None:
    ticket, ends = await tickets.issue(ann(time.time() + 100))
    (name,) = [name async for name in store.client.scan_iter(match=TAG + "*")]
    assert name == (TAG + ticket_hash(ticket)).encode()
    assert ticket not in str(await store.client.hgetall(name))
    assert 90_000 < await store.client.pttl(name) <= 100_000
    assert ends == pytest.approx(time.time() + 100, abs=5)


async def test_the_longest_life_is_a_day(tickets: Tickets) -> None:
    for principal in (ann(), ann(time.time() + 10 * LONGEST)):
        assert (await tickets.issue(principal)).expires_at == pytest.approx(time.time() + LONGEST, abs=5)


async def test_an_expired_principal_gets_nothing(store: Store, settings: Settings) -> None:
    now = time.time()
    tickets = Tickets(store, KeyStore(store, settings), clock=lambda: now)
    with pytest.raises(TokenExpired):
        await tickets.issue(ann(now))
    ticket, _ = await tickets.issue(ann(now + 60))
    late = Tickets(store, KeyStore(store, settings), clock=lambda: now + 60)
    with pytest.raises(TokenExpired):
        await late.open(ticket, proven=False)


async def test_nobody_gets_nothing(tickets: Tickets) -> None:
    with pytest.raises(Forbidden):
        await tickets.issue(ANONYMOUS)


async def test_a_revoked_key_takes_its_tickets_along(store: Store, settings: Settings) -> None:
    keys = KeyStore(store, settings)
    tickets = Tickets(store, keys)
    key, token = await keys.create("acme", "ci", ["channels:read"])
    principal = await keys.lookup(token)
    assert principal is not None
    ticket, _ = await tickets.issue(principal)
    assert await tickets.open(ticket, proven=False) == principal
    await keys.revoke("acme", key.id)
    with pytest.raises(Unauthenticated, match="revoked"):
        await tickets.open(ticket, proven=True)


async def test_the_root_keys_ticket(store: Store, settings: Settings) -> None:
    keys = KeyStore(store, settings)
    root = await keys.lookup(ROOT_KEY)
    assert root is not None
    tickets = Tickets(store, keys)
    assert await tickets.open((await tickets.issue(root)).ticket, proven=False) == root


async def test_redis_away_is_said(store_away: Store, settings: Settings) -> None:
    tickets = Tickets(store_away, KeyStore(store_away, settings))
    with pytest.raises(StoreUnavailable):
        await tickets.issue(ann())
    with pytest.raises(StoreUnavailable):
        await tickets.open("x", proven=False)


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_a_mac_ties_a_cursor_to_a_ticket(ticket: str, cursor: str, other: str) -> None:
    hashed = ticket_hash(ticket)
    mac = sign_cursor(SECRET, hashed, cursor)
    assert len(mac) == 16
    assert set(mac) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert verify_cursor(SECRET, hashed, cursor, mac)
    assert not verify_cursor(b"t" * 32, hashed, cursor, mac)
    assert not verify_cursor(SECRET, hashed, cursor, other)
    assert verify_cursor(SECRET, hashed, other, mac) == (other == cursor)
    assert verify_cursor(SECRET, ticket_hash(other), cursor, mac) == (other == ticket)


def test_odd_text_is_no_mac() -> None:
    for odd in ("", "é", "\ud800", "x" * 10_000):
        assert not verify_cursor(SECRET, "h", "c", odd)
    sign_cursor(SECRET, "h", "\ud800")
