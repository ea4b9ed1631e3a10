"""A real gateway (`gateway dev`) and a real Chromium."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.browser.harness import ARTEFACTS, DevGateway, Observed, host_of

LIMIT = 20_000  # ms; only a failure takes so long
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

expect.set_options(timeout=LIMIT)


@pytest.fixture(scope="session")
def dev_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevGateway]:
    gateway = DevGateway(tmp_path_factory.mktemp("dev"))
    gateway.start()
    yield gateway
    gateway.stop()


@pytest.fixture
def dev_url(dev_gateway: DevGateway) -> str:
    return dev_gateway.url


@pytest.fixture
def root_key(dev_gateway: DevGateway) -> str:
    return dev_gateway.key


# One Chromium and one event loop for all tests here; every test has a context of its own.
@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "Chromium is needed: apt-get install chromium"
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield running
        await running.close()


@pytest.fixture
def observed() -> Observed:
    return Observed()


@pytest_asyncio.fixture(loop_scope="session")
async def page(
    browser: Browser, observed: Observed, dev_url: str, request: pytest.FixtureRequest
) -> AsyncIterator[Page]:
    """A fresh page, not signed in. Afterwards: a picture, no console error, no request to anybody else."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900}, base_url=dev_url)
    fresh = await context.new_page()
    fresh.set_default_timeout(LIMIT)
    observed.watch(fresh)
    yield fresh
    ARTEFACTS.mkdir(exist_ok=True)
    await fresh.screenshot(path=ARTEFACTS / f"{request.node.name}.png", full_page=True)
    await context.close()
    assert observed.errors == []
    assert observed.hosts <= {host_of(dev_url)}
