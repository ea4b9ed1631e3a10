"""What the fan-out benchmarks run and read: C programs, processes on a core, the load client, CPU and memory."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
READY_LIMIT = 120.0

SERVER_CORE = 0
LOAD_CORE = min(1, (os.cpu_count() or 1) - 1)


def raise_limits() -> int:
    """Raise this process' limit of open files to the hard one, for it and its children; returns the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def stay_on(core: int) -> None:
    """Keep this process, and whatever it starts without `pinned`, on one core, where a system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc")


def build(name: str, folder: Path) -> str:
    """Compile one of our C programs; returns its path."""
    found = compiler()
    assert found, "a C compiler is needed: sh tests/setup.sh bench"
    program = folder / name
    subprocess.run([found, "-O2", "-o", str(program), str(HERE / f"{name}.c")], check=True)
    return str(program)


def pinned(core: int, command: Sequence[str]) -> list[str]:
    """Return the command on one core; unpinned where there is no `taskset`."""
    return ["taskset", "-c", str(core), *command] if shutil.which("taskset") else list(command)


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def environment(**extra: str) -> dict[str, str]:
    """Return an environment in which `gateway` and `tests` are this tree's, without the caller's settings."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return {**bare, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **extra}


def family(pid: int) -> list[int]:
    """Return a process and its children: what one server is made of."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [pid, *(int(child) for child in (children.read_text().split() if children.exists() else ()))]


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a server so far."""
    ticks = 0
    for member in family(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a server."""
    pages = sum(int(Path(f"/proc/{member}/statm").read_text().split()[1]) for member in family(pid))
    return pages * os.sysconf("SC_PAGE_SIZE")


def choked(port: int, least: int) -> int:
    """Count the server's connections for which the kernel holds at least so many bytes that did not leave."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    ours = [row for row in rows if int(row[1].rpartition(":")[2], 16) == port]
    return sum(int(row[4].partition(":")[0], 16) >= least for row in ours)


@dataclass(frozen=True, slots=True)
class Load:
    """What the load client opens.

    Attributes:
        kind: `ws` or `sse`.
        port: where.
        path: request target; `%i` is the channel's number.
        count: subscribers.
        channels: they are spread over so many.
        headers: further header lines; `%t` is the subscriber's token.
        steps: (text frame to send or "", text to wait for) until it is subscribed.
        tokens: file with one token per line.
    """

    kind: str
    port: int
    path: str
    count: int
    channels: int = 1
    headers: tuple[str, ...] = ()
    steps: tuple[tuple[str, str], ...] = ()
    tokens: Path | None = None

    def arguments(self) -> list[str]:
        words = ["-w" if self.kind == "ws" else "-s", "-p", str(self.port), "-u", self.path]
        words += ["-n", str(self.count), "-c", str(self.channels)]
        for header in self.headers:
            words += ["-H", header]
        for text, reply in self.steps:
            words += [*(("-m", text) if text else ()), "-r", reply]
        return [*words, *(("-t", str(self.tokens)) if self.tokens else ())]


class Fan:
    """A running load client: `ready` when all are subscribed; `result` when it has ended."""

    def __init__(self, program: str, load: Load, *, expected: int = 0, limit: float = 120, stopped: int = 0) -> None:
        options = ["-e", str(expected), "-l", str(limit), "-x", str(stopped)]
        self._limit = limit
        self._process = subprocess.Popen(
            pinned(LOAD_CORE, [program, *load.arguments(), *options]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> None:
        """Wait until every subscriber is subscribed."""
        watchdog = threading.Timer(READY_LIMIT + 10, self._process.kill)
        watchdog.start()
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        watchdog.cancel()
        assert line == "READY\n", line + self._process.stderr.read()

    def result(self) -> dict[str, Any]:
        """Wait for the end and return what it counted."""
        output, errors = self._process.communicate(timeout=self._limit + 60)
        assert self._process.returncode == 0, errors
        found: dict[str, Any] = json.loads(output)
        return found

    def stop(self) -> dict[str, Any]:
        """End it now."""
        self._process.send_signal(signal.SIGTERM)
        return self.result()
