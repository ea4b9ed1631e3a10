"""Waiting for Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from gateway.errors import StoreUnavailable

T = TypeVar("T")

log = structlog.get_logger(__name__)

RECORD_NAP = 0.5  # between tries while Redis is away; the effect is done, so it is recorded however long it takes


async def until_stored(step: Callable[[], Awaitable[T]]) -> T:
    """Repeat a step that is safe to repeat until Redis has answered it.

    Raises:
        StaleFence, Conflict, GatewayError: the answer was no.
    """
    while True:
        try:
            return await step()
        except StoreUnavailable:
            log.warning("store.waiting")
            await asyncio.sleep(RECORD_NAP)
