"""Which hash tag a tenant lives on. Pure."""

from __future__ import annotations

import zlib


def shard_of(tenant: str, shards: int) -> int:
    """Return the tenant's shard: CRC32 of its name modulo the number of shards."""
    return zlib.crc32(tenant.encode()) % shards


def tag(shard: int) -> str:
    """Return the prefix of every key of a shard: a Redis Cluster hash tag, so one script touches one slot."""
    return f"{{s{shard:02d}}}:"


def live_channel(shard_tag: str, tenant: str, channel: str) -> str:
    """Return the Redis pub/sub channel on which a channel's publications appear."""
    return f"{shard_tag}live:{tenant}:{channel}"
