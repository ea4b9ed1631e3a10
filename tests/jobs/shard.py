"""What a shard holds of jobs, slots and lanes, as it is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec


class Seen:
    """What Redis holds of one shard, read in one go."""

    def __init__(self, jobs: dict[tuple[str, str], dict[str, Any]], keys: dict[str, Any]) -> None:
        self.jobs = jobs
        self.keys = keys

    def members(self, prefix: str) -> dict[str, set[str]]:
        return {name.removeprefix(prefix): found for name, found in self.keys.items() if name.startswith(prefix)}

    def counts(self, name: str) -> Counter[str]:
        """Return a hash of counters; Counter takes a count of none for one that is not there."""
        return Counter(self.keys.get(name, {}))


def named(jobs: Iterable[tuple[tuple[str, str], dict[str, Any]]], status: str) -> set[str]:
    return {f"{tenant} {job_id}" for (tenant, job_id), job in jobs if job["st"] == status}


async def look(client: Any, tag: str) -> Seen:
    """Read a shard."""
    names = [raw.decode().removeprefix(tag) for raw in await client.keys(tag + "*")]
    async with client.pipeline(transaction=False) as reading:
        known = [name for name in names if _read(reading, name, tag + name)]
        found: list[Any] = await reading.execute()
    jobs: dict[tuple[str, str], dict[str, Any]] = {}
    keys: dict[str, Any] = {}
    for name, content in zip(known, found, strict=True):
        if name.startswith("job:"):
            _, tenant, job_id = name.split(":")
            jobs[tenant, job_id] = msgspec.msgpack.decode(content)
        elif name == "crowded":
            keys[name] = {"": int(content)}
        elif isinstance(content, dict):
            keys[name] = {key.decode(): int(count) for key, count in content.items()}
        else:
            keys[name] = {item.decode() for item in content}
    return Seen(jobs, {"due": set(), **keys})


def _read(reading: Any, name: str, key: str) -> bool:
    kind = name.partition(":")[0]
    if kind == "job":
        reading.hget(key, "d")
    elif name in {"open", "open:type", "waiting"}:
        reading.hgetall(key)
    elif kind in {"lane", "ring", "crowd", "queued"} or name in {"due", "ended", "dead:a", "dead:b"}:
        reading.zrange(key, 0, -1)
    elif kind == "adm":
        reading.smembers(key)
    elif name == "crowded":
        reading.get(key)
    else:
        return False
    return True
