"""Health over HTTP: `/healthz` answers while the process lives, `/readyz` names every dependency."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from gateway.errors import GatewayError


class Readiness(NamedTuple):
    """Whether the process should get traffic, and what each dependency says (`ok` or why not)."""

    ready: bool
    checks: Mapping[str, str]


Check = Callable[[], Awaitable[str | None]]


async def readiness(checks: Mapping[str, Check], required: frozenset[str]) -> Readiness:
    """Ask every dependency.

    Args:
        checks: by name; each returns None when all is well, else why not.
        required: those without which the process cannot do its work. The others are named all the same: without
            the broker jobs are still accepted and events still flow.
    """
    said: dict[str, str] = {}
    for name, check in checks.items():
        try:
            said[name] = await check() or "ok"
        except GatewayError as error:
            said[name] = error.code
    return Readiness(all(said[name] == "ok" for name in required), said)
