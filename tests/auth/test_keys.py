"""API keys on a real Redis: found, remembered briefly, revoked, never stored in the clear."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.auth.cache import Cache
from gateway.auth.keys import CACHE_TTL, MAX_KEYS, Key, KeyStore, _digest, _record, _write, require
from gateway.auth.principals import ANONYMOUS, Principal
from gateway.auth.secret import server_secret
from gateway.errors import Conflict, Forbidden, NotFound, StoreUnavailable
from gateway.settings import Settings, load
from gateway.store.redis import Store
from tests.auth.conftest import ROOT_KEY


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_key_is_found_by_its_token(store: Store, settings: Settings) -> None:
    keys = KeyStore(store, settings)
    key, token = await keys.create("acme", "ci", ["jobs:write", "jobs:read", "jobs:read"])
    assert token.startswith("gk_")
    assert key.id.startswith("key_")
    expected = Principal(tenant="acme", subject=key.id, kind="key", scopes=frozenset({"jobs:read", "jobs:write"}))
    assert await keys.lookup(token) == expected
    assert await KeyStore(store, settings).lookup(token) == expected


async def test_a_key_is_never_stored(store: Store, settings: Settings) -> None:
    key, token = await KeyStore(store, settings).create("acme", "ci", ["*"])
    names = [name async for name in store.client.scan_iter()]
    # DUMP may compress what is long, so a key is also looked for field by field.
    dump = [*names, *[await store.client.dump(name) for name in names]]
    for name in names:
        if await store.client.type(name) == b"hash":
            dump += [item for pair in (await store.client.hgetall(name)).items() for item in pair]
    everything = b" ".join(bytes(item) for item in dump)
    assert key.id.encode() in everything
    assert token.encode() not in everything


@pytest.mark.parametrize("token", ["", "gk_", "gk_unknown", "gk_" + "x" * 500, "other", "gk_\ud800", "a.b.c"])
async def test_what_is_no_key(store: Store, settings: Settings, token: str) -> None:
    assert await KeyStore(store, settings).lookup(token) is None


async def test_lists_and_revokes_by_tenant(store: Store, settings: Settings) -> None:
    keys = KeyStore(store, settings)
    first, token = await keys.create("acme", "one", ["jobs:read"])
    second, _ = await keys.create("acme", "two", ["*"])
    other, _ = await keys.create("beta", "three", ["*"])
    assert await keys.list("acme") == [first, second]
    assert await keys.list("beta") == [other]
    assert await keys.list("none") == []
    with pytest.raises(NotFound):
        await keys.revoke("beta", first.id)
    assert await keys.lookup(token) is not None
    await keys.revoke("acme", first.id)
    assert await keys.lookup(token) is None
    assert await keys.list("acme") == [second]
    with pytest.raises(NotFound):
        await keys.revoke("acme", first.id)


async def test_another_process_forgets_a_revoked_key_in_time(store: Store, settings: Settings) -> None:
    clock = Clock()
    here, there = KeyStore(store, settings), KeyStore(store, settings, monotonic=clock)
    key, token = await here.create("acme", "ci", ["*"])
    principal = await there.lookup(token)
    assert principal is not None
    await here.revoke("acme", key.id)
    assert await there.lookup(token) == principal
    clock.now += CACHE_TTL
    assert await there.lookup(token) is None
    assert not await there.is_live(principal)


async def test_an_unknown_key_is_remembered_briefly(store: Store, settings: Settings) -> None:
    clock = Clock()
    keys = KeyStore(store, settings, monotonic=clock)
    assert await keys.lookup("gk_unknown") is None
    key = Key("key_1", "acme", "made meanwhile", ("*",), 1.0)
    await store.client.hset(_record(_digest("gk_unknown")), mapping=dict[Any, Any](_write(key)))
    assert await keys.lookup("gk_unknown") is None
    clock.now += CACHE_TTL
    assert await keys.lookup("gk_unknown") is not None


async def test_the_root_key_needs_no_redis(store_away: Store, settings: Settings) -> None:
    keys = KeyStore(store_away, settings)
    root = await keys.lookup(ROOT_KEY)
    assert root == Principal(tenant="default", subject="root", kind="key", scopes=frozenset({"*"}))
    assert await keys.is_live(root)
    assert await keys.lookup(ROOT_KEY + "x") is None
    assert not await KeyStore(store_away, load({})).is_live(root)


async def test_redis_away_is_said(store_away: Store, settings: Settings) -> None:
    keys = KeyStore(store_away, settings)
    with pytest.raises(StoreUnavailable):
        await keys.lookup("gk_something")
    with pytest.raises(StoreUnavailable):
        await keys.create("acme", "ci", [])
    with pytest.raises(StoreUnavailable):
        await keys.list("acme")
    with pytest.raises(StoreUnavailable):
        await server_secret(store_away, settings)


async def test_keys_of_a_tenant_are_bounded(store: Store, settings: Settings) -> None:
    await store.client.hset("{keys}:of:acme", mapping={f"key_{n}": "x" for n in range(MAX_KEYS)})
    with pytest.raises(Conflict):
        await KeyStore(store, settings).create("acme", "one more", [])


async def test_the_last_free_place_is_given_once(store: Store, settings: Settings) -> None:
    await store.client.hset("{keys}:of:acme", mapping={f"key_{n}": "x" for n in range(MAX_KEYS - 1)})
    keys = KeyStore(store, settings)
    made = await asyncio.gather(*(keys.create("acme", "one more", []) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(answer, Conflict) for answer in made) == 7
    assert len(await store.client.hkeys("{keys}:of:acme")) == MAX_KEYS


async def test_a_key_is_revoked_once(store: Store, settings: Settings) -> None:
    keys = KeyStore(store, settings)
    key, _ = await keys.create("acme", "ci", ["*"])
    done = await asyncio.gather(*(keys.revoke("acme", key.id) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(answer, NotFound) for answer in done) == 7


def test_scopes_are_named_when_missing() -> None:
    holder = Principal(tenant="t", subject="k", kind="key", scopes=frozenset({"jobs:read"}))
    require(holder, "jobs:read")
    require(Principal(tenant="t", subject="k", kind="key", scopes=frozenset({"*"})), "keys:manage")
    with pytest.raises(Forbidden, match="jobs:write"):
        require(holder, "jobs:write")
    with pytest.raises(Forbidden, match="API key with the scope jobs:write"):
        require(ANONYMOUS, "jobs:write")


async def test_every_process_finds_the_same_secret(store: Store, settings: Settings) -> None:
    first = await server_secret(store, settings)
    assert len(first) >= 32
    assert await server_secret(store, settings) == first
    configured = load({"GATEWAY_TOKEN_SECRET": "s" * 32})
    assert await server_secret(store, configured) == b"s" * 32


def test_the_cache_is_bounded_in_age_and_size() -> None:
    clock = Clock()
    cache: Cache[int] = Cache(2, 5.0, clock)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.put("a", 3)
    cache.put("c", 4)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (3, None, 4)
    cache.forget("c")
    cache.forget("c")
    assert cache.get("c") is None
    clock.now += 5.0
    assert cache.get("a") is None
