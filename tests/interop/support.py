"""Programs in Node that tell what they notice, and the address in front of two gateways."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.e2e.clients import Event, token
from tests.e2e.stack import Process, client
from tests.e2e.test_one_job_live import log_of, submit
from tests.support.proxy import TcpProxy

FOLDER = Path(__file__).parent
LIMIT = 40.0
LINE_LIMIT = 1024 * 1024
SLOW_ECHO = {"type": "echo", "input": {"value": {"list": []}, "seconds": 3, "steps": 12}, "owner": "ann"}
Line = dict[str, Any]


class Switch(TcpProxy):
    """A proxy whose target can change, as an address of a load balancer does."""

    def lead_to(self, url: str) -> None:
        """Send new connections elsewhere; those that are open stay where they are."""
        self._target = port_of(url)


@dataclass
class Pair:
    """Two gateways, and the address that leads to one of them."""

    first: Process
    first_url: str
    second: Process
    second_url: str
    front: Switch

    @property
    def url(self) -> str:
        return self.front.url(self.first_url)

    @property
    def websocket(self) -> str:
        return websocket(self.url)


class Program:
    """A running program; it writes one JSON object per line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[Line] = []

    async def until(self, say: str, where: Callable[[Line], bool] = lambda _: True) -> Line:
        """Read on to the next such line."""
        async with asyncio.timeout(LIMIT):
            while (line := await self._next()) is not None:
                if line["say"] == say and where(line):
                    return line
        raise AssertionError(f"ended without {say!r}: {self.lines}")

    async def finish(self) -> list[Line]:
        """Read on to the program's end; returns all it ever wrote."""
        async with asyncio.timeout(LIMIT):
            while await self._next() is not None:
                pass
            assert await self._process.wait() == 0, self.lines
        return self.lines

    def said(self, say: str) -> list[Line]:
        """Return the lines of one kind read so far."""
        return [line for line in self.lines if line["say"] == say]

    async def _next(self) -> Line | None:
        assert self._process.stdout is not None
        text = await self._process.stdout.readline()
        if not text:
            return None
        line: Line = json.loads(text)
        self.lines.append(line)
        return line


@contextlib.asynccontextmanager
async def program(name: str, task: Mapping[str, object]) -> AsyncIterator[Program]:
    """Start `<name>.mjs` of this folder; it ends at the latest when the test does."""
    node = shutil.which("node")
    assert node, "Node.js is needed: sh tests/setup.sh"
    assert (FOLDER / "node_modules").is_dir(), "the npm packages are needed: sh tests/setup.sh"
    process = await asyncio.create_subprocess_exec(
        node, str(FOLDER / f"{name}.mjs"), json.dumps(task), stdin=PIPE, stdout=PIPE, limit=LINE_LIMIT
    )
    try:
        yield Program(process)
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            process.kill()
        await process.communicate()


def port_of(url: str) -> int:
    """Return the port of a URL."""
    port = urlsplit(url).port
    assert port
    return port


def websocket(url: str) -> str:
    """Return the WebSocket address of a gateway."""
    return url.replace("http", "ws", 1) + "/connection/websocket"


def in_the_middle(event: Event) -> bool:
    """Whether the job is underway and will be for a while."""
    return bool(event["type"] == "job.progress" and event["data"]["progress"]["done"] >= 3)


async def submit_slow(url: str) -> str:
    """Submit a job of ann's that lasts long enough for something to break meanwhile."""
    return await submit(url, SLOW_ECHO)


async def new_ticket(url: str, subject: str) -> str:
    """Get a ticket with the subject's token; returns the path and query that open a stream."""
    async with client(url, token(subject)) as http:
        response = await http.post("/v1/tickets")
    assert response.status_code == 201, response.text
    return str(response.json()["url"])


async def check_whole_life(url: str, job_id: str, seen: list[Event]) -> None:
    """The events are the job's log: all of it, in order, each once."""
    log = await log_of(url, job_id)
    assert [event["id"] for event in seen] == [event["id"] for event in log]
    assert seen == log
    types = [event["type"] for event in log]
    assert types[:2] == ["job.queued", "job.started"]
    assert types[-1] == "job.succeeded"
    assert types.count("job.progress") > 6
