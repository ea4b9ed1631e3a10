"""A child process that is gone when the test run is gone, also when the run is killed."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.support.waiting import eventually_sync

STOP_LIMIT = 30.0
_PORTS = range(20_000, 32_000)  # below what systems give to outgoing connections
_BLOCK = 200

# Reads until its parent is gone, however that ended, and then takes the process group and the folder along.
_GUARD = 'read -r _; kill -s KILL -- "-$1" 2>/dev/null; rm -rf "$2"'


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Child:
    """A process with a process group of its own, and a guard that ends it when the test run was killed.

    `folder` is the program's own: its output goes there, and the guard removes it.
    """

    def __init__(self, command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> None:
        self._log = folder / f"{Path(command[0]).name}.log"
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=folder,  # a core of its memory, should it crash, goes with the folder
                start_new_session=True,
            )
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "guard", str(self._process.pid), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, condition: Callable[[], bool], limit: float) -> None:
        """Wait until the condition holds; fails with the end of the log when the process ends before."""

        def settled() -> bool:
            code = self._process.poll()
            assert code is None, f"{self._process.args!r} ended with {code}:\n{self._log.read_text()[-4000:]}"
            return condition()

        eventually_sync(settled, limit)

    def stop(self) -> None:
        """SIGTERM, wait for the end, and kill what is left of the group."""
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT)
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group; returns when the process is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._guard.kill()
        self._guard.wait()
        if self._guard.stdin is not None:
            self._guard.stdin.close()


def free_port() -> int:
    """A TCP port of 127.0.0.1 nobody listens on, and no outgoing connection gets while a server is being restarted.

    No other process that runs tests gets it, and this one gets it again only when its block is used up.
    """
    _, ports = _own_block()
    for port in itertools.islice(ports, _BLOCK):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


@functools.cache
def _own_block() -> tuple[socket.socket, Iterator[int]]:
    """Ports for this process alone. Its first port stays bound as long as the process lives: that is the lock."""
    blocks = range(_PORTS.start, _PORTS.stop, _BLOCK)
    for first in random.sample(blocks, len(blocks)):
        lock = socket.socket()
        try:
            lock.bind(("127.0.0.1", first))
        except OSError:
            lock.close()
        else:
            return lock, itertools.cycle(range(first + 1, first + _BLOCK))
    raise RuntimeError("no free block of ports")


def exchange(port: int, question: bytes, expected: bytes) -> bool:
    """Say whether what listens on the port answers a question with bytes that start as expected."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(question)
            return connection.recv(64).startswith(expected)
    except OSError:
        return False
