"""`gateway dev` as a process, and what a page does behind the user's back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import pytest
from playwright.async_api import ConsoleMessage, Page, Request

ROOT = Path(__file__).resolve().parents[2]
ARTEFACTS = ROOT / "artefacts"
START_SECONDS = 60
STOP_SECONDS = 20
ANNOUNCED = re.compile(r"(http://127\.0\.0\.1:(\d+))/?#key=(\S+)")


class DevGateway:
    """`gateway dev` as a child process, with its output kept for when it does not come up."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.url = ""
        self.key = ""
        self.port = 0

    def start(self) -> None:
        command = [sys.executable, "-m", "gateway", "dev", "--port", str(self.port), "--data", str(self.data)]
        self.process = subprocess.Popen(
            command, cwd=self.data, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        self.lines: list[str] = []
        self.announced = threading.Event()
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout,))
        self.reader.start()
        if not (self.announced.wait(START_SECONDS) and self.url):
            self.stop()
            pytest.fail("gateway dev did not come up:\n" + "\n".join(self.lines[-50:]))

    def _read(self, output: IO[str]) -> None:
        with output:
            for line in output:
                self.lines.append(line.rstrip())
                if found := ANNOUNCED.search(line):
                    self.url, self.port, self.key = found[1], int(found[2]), found[3]
                    self.announced.set()
        self.announced.set()  # the output has ended: nobody needs to wait any longer

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join()


def _environment() -> dict[str, str]:
    """Nobody's settings but the test's own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), str(ROOT)]))
    env["PYTHONUNBUFFERED"] = "1"
    return env


class Observed:
    """What a page does that a user would not see: console errors, and requests that leave the origin."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        # Chromium logs every refused request; the tests that provoke one look at what the page makes of it.
        self.expected = ["Failed to load resource: the server responded with a status of 4"]

    def watch(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._request)
        page.on("websocket", lambda socket: self.hosts.add(host_of(socket.url)))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not any(known in message.text for known in self.expected):
            self.errors.append(message.text)

    def _request(self, request: Request) -> None:
        if not request.url.startswith(("data:", "blob:")):
            self.hosts.add(host_of(request.url))


def host_of(url: str) -> str:
    return url.split("/")[2]
