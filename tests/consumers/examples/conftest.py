from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from gateway.settings import Settings
from tests.consumers.examples.support import FakeContext, Files


@pytest.fixture
def ctx() -> FakeContext:
    return FakeContext()


@pytest.fixture
def ctx_local() -> FakeContext:
    """A context whose worker may download from loopback."""
    return FakeContext(settings=Settings(webhook_allow=("127.0.0.0/8",)))


@pytest.fixture
async def files() -> AsyncIterator[Files]:
    found = Files()
    app = web.Application()
    app.router.add_get("/{path:.*}", found.answer)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()
