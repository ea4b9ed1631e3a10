"""Revocations on a real Redis: what is revoked, for how long, and that no process misses one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth import keys as key_module
from gateway.auth import revocation
from gateway.auth.keys import KeyStore
from gateway.auth.principals import ANONYMOUS, Credential
from gateway.auth.revocation import TAG, Revocations, View
from gateway.errors import Conflict, StoreUnavailable
from gateway.settings import Settings
from gateway.store.redis import Store


def token(subject: str = "ann", jti: str | None = None, issued_at: float | None = None) -> Credential:
    return Credential("token", "acme", subject, jti, issued_at)


async def test_a_token_is_revoked_by_its_id_in_its_tenant(store: Store) -> None:
    here, there = Revocations(store), Revocations(store)
    assert not await there.revoked(token(jti="j1"))
    await here.revoke("acme", "j", "j1")
    assert await here.revoked(token(jti="j1"))
    assert not there.known(token(jti="j1"))
    await there.catch_up()
    assert there.known(token(jti="j1"))
    assert not there.known(token(jti="j2"))
    assert not there.known(token())
    assert not there.known(Credential("token", "beta", "ann", "j1"))


async def test_a_users_tokens_are_revoked_up_to_the_moment(store: Store) -> None:
    revocations = Revocations(store)
    done = await revocations.revoke("acme", "u", "ann")
    assert done.at == pytest.approx(time.time(), abs=5)
    assert done.ends == pytest.approx(done.at + 30 * 86_400)
    for old in (None, 0, done.at - 1, done.at):
        assert revocations.known(token(issued_at=old))
    assert not revocations.known(token(issued_at=done.at + 0.001))
    assert not revocations.known(token("bob", issued_at=0))
    assert not revocations.known(Credential("key", "acme", "ann"))
    assert not revocations.known(ANONYMOUS.credential)


async def test_a_second_revocation_moves_the_moment_and_never_shortens_the_memory(store: Store) -> None:
    revocations = Revocations(store)
    first = await revocations.revoke("acme", "u", "ann", ttl=1000)
    second = await revocations.revoke("acme", "u", "ann", ttl=60)
    assert second.at >= first.at
    assert second.ends == first.ends
    assert revocations.known(token(issued_at=second.at))
    assert await store.client.hget(f"{TAG}revoked:of", "acme") == b"1"


@pytest.mark.parametrize("value", ["with space", "änn\nnext", "u j k", "{}", "x" * 256])
async def test_any_name_can_be_revoked(store: Store, value: str) -> None:
    there = Revocations(store)
    await Revocations(store).revoke("acme", "u", value)
    await there.catch_up()
    assert there.known(token(value))


async def test_what_has_ended_is_forgotten(store: Store) -> None:
    clock = time.time()
    revocations = Revocations(store, clock=lambda: clock)
    await revocations.revoke("acme", "j", "short", ttl=60)
    await store.client.zadd(f"{TAG}revoked:ends", {"acme j short": 1})
    await revocations.revoke("acme", "j", "long")
    assert await store.client.zrange(f"{TAG}revoked:log", 0, -1) == [b"acme j long"]
    assert await store.client.hkeys(f"{TAG}revoked") == [b"acme j long"]
    assert await store.client.hget(f"{TAG}revoked:of", "acme") == b"1"
    assert len(revocations.view) == 2
    clock += 61
    await revocations.catch_up()
    assert len(revocations.view) == 1


async def test_revocations_are_bounded_by_tenant(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation, "PER_TENANT", 2)
    revocations = Revocations(store)
    for value in ("a", "b", "a"):
        await revocations.revoke("acme", "j", value)
    with pytest.raises(Conflict, match="revoke users"):
        await revocations.revoke("acme", "j", "c")
    await revocations.revoke("beta", "j", "c")


async def test_what_others_revoked_keeps_no_tenant_from_revoking_or_creating_keys(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "TOTAL", 3)
    monkeypatch.setattr(revocation, "RESERVED", 2)
    revocations, keys = Revocations(store), KeyStore(store, Settings())
    for number in range(3):
        await revocations.revoke("greedy", "j", str(number))
    with pytest.raises(Conflict):
        await revocations.revoke("greedy", "j", "one more")
    key, _ = await keys.create("acme", "ci", ["jobs:write"])
    await revocations.revoke("acme", "u", "ann")
    await keys.revoke("acme", key.id)
    with pytest.raises(Conflict):
        await revocations.revoke("acme", "u", "beyond the reserve")


async def test_revocations_that_have_ended_do_not_keep_keys_from_being_created(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_module, "PER_TENANT", 2)
    revocations, keys = Revocations(store), KeyStore(store, Settings())
    for number in range(2):
        await revocations.revoke("acme", "j", str(number))
    with pytest.raises(Conflict):
        await keys.create("acme", "ci", [])
    ends = f"{TAG}revoked:ends"
    await store.client.zadd(ends, {f"acme j {number}": 1 for number in range(2)})
    await keys.create("acme", "ci", [])


async def test_catching_up_reads_page_after_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation, "_PAGE", 3)
    here, there = Revocations(store), Revocations(store)
    for n in range(10):
        await here.revoke("acme", "j", str(n))
    await there.catch_up()
    assert len(there.view) == 10
    assert there.view.version == here.view.version


async def test_nothing_is_missed_after_redis_lost_its_memory(store: Store) -> None:
    here, there = Revocations(store), Revocations(store)
    for n in range(50):
        await here.revoke("acme", "j", f"before-{n}")
    await there.catch_up()
    await store.client.flushall()
    await here.revoke("acme", "j", "after")
    await there.catch_up()
    assert there.known(token(jti="after"))
    assert there.known(token(jti="before-7"))


async def test_a_view_that_outgrew_the_server_starts_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation, "_LIMIT", 3)
    revocations = Revocations(store)
    for n in range(3):
        await revocations.revoke("acme", "j", str(n))
    await store.client.flushall()
    await revocations.revoke("acme", "j", "3")
    await revocations.catch_up()
    assert len(revocations.view) == 1
    assert revocations.known(token(jti="3"))


async def test_redis_away_is_said_until_something_is_known(store_away: Store) -> None:
    revocations = Revocations(store_away)
    with pytest.raises(StoreUnavailable):
        await revocations.revoked(token())
    with pytest.raises(StoreUnavailable):
        await revocations.revoke("acme", "j", "x")


def line(version: int, name: str) -> bytes:
    return f"{version} 1000 99000 acme j {name}".encode()


def test_a_message_that_was_missed_shows() -> None:
    view = View()
    view.published(b"0 " + line(7, "a"))
    assert view.version == 7
    view.published(b"8 " + line(9, "c"))
    assert view.version == 7
    assert view.revoked(token(jti="c"))
    view.read(line(8, "b"))
    view.read(line(9, "c"))
    assert view.version == 9
    assert view.changes == 3
    with pytest.raises(ValueError, match="not enough values"):
        view.published(b"nonsense")


@given(st.data())
def test_whatever_is_lost_or_repeated_a_view_ends_right(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 20))
    log = [line(n, str(n)) for n in range(1, count + 1)]
    view = View()
    for index in data.draw(st.lists(st.integers(0, count - 1), max_size=40)):
        if data.draw(st.booleans()):
            view.published(b"%d " % index + log[index])
        else:
            for entry in log[view.version : data.draw(st.integers(view.version, count))]:
                view.read(entry)
    for entry in log[view.version :]:
        view.read(entry)
    assert view.version == count
    assert all(view.revoked(token(jti=str(n))) for n in range(1, count + 1))
