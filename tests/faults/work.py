"""The task of the fault runs: progress, failures as asked for, and one effect on a receiver that knows its keys."""

from __future__ import annotations

import asyncio
import os
from typing import TypedDict

from consumers import Context, Retry, task

POOL, RECEIVER = "FAULTS_POOL", "FAULTS_RECEIVER"  # variables: whose jobs, and the receiver's port
TYPE = "faults.work"


class Wanted(TypedDict):
    """How long an attempt takes, in seconds, and how many fail before one succeeds."""

    seconds: float
    failures: int


# A crash is not an attempt that failed: the limit of attempts stays out of the way, that of crashes counts.
@task(TYPE, pool=os.environ.get(POOL, "faults"), timeout=120, max_attempts=50)
async def work(ctx: Context, wanted: Wanted) -> str:
    """Have the effect in the middle, and return the key it had it under."""
    ctx.progress(0, 2)
    await asyncio.sleep(wanted["seconds"] / 2)
    if ctx.attempt <= wanted["failures"]:
        raise Retry("as asked", after=0.2)
    key: str = await ctx.once("effect", have_effect, idempotent=True)
    ctx.progress(1, 2)
    await asyncio.sleep(wanted["seconds"] / 2)
    return key


async def have_effect(key: str) -> str:
    """`PUT /effects/<key>`; returns the key when the receiver has confirmed it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ[RECEIVER]))
    try:
        writer.write(f"PUT /effects/{key} HTTP/1.1\r\nHost: receiver\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        if not (await reader.readline()).startswith(b"HTTP/1.1 204 "):
            raise ConnectionError("the receiver did not confirm")
        return key
    finally:
        writer.close()
