"""The whole product as processes: gateways, workers, and what the tests do to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT_KEY = "gk_test_root_key_0123456789abcdef"
SECRET = "test-secret-test-secret-test-secret"
READY_LIMIT = 60.0


class Process:
    """A program of ours; its output is kept, and a line of it can be waited for."""

    def __init__(self, arguments: list[str], env: dict[str, str], cwd: Path | None = None) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=env,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        stdout = self._popen.stdout
        if stdout is None:
            return
        for line in stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for(self, text: str, limit: float = READY_LIMIT) -> str:
        """Return the first line that holds the text."""

        def found() -> str | None:
            return next((line for line in self.lines if text in line), None)

        with self._news:
            self._news.wait_for(lambda: found() or not self._reader.is_alive(), limit)
            line = found()
        assert line is not None, f"{text!r} not seen in:\n{self.output}"
        return line

    @property
    def output(self) -> str:
        return "".join(self.lines)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def kill(self) -> None:
        """kill -9, only the process itself."""
        self._popen.kill()
        self._end()

    def ended(self, limit: float = 30.0) -> int:
        """Wait for it to end by itself; returns the exit code."""
        return self._popen.wait(limit)

    def stop(self, limit: float = 30.0) -> int:
        """SIGTERM, as a supervisor would; returns the exit code."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
        try:
            self._popen.wait(limit)
        finally:
            if self._popen.poll() is None:
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._end()
        return self._popen.returncode

    def _end(self) -> None:
        self._popen.wait()
        self._reader.join(5)
        if self._popen.stdout is not None:
            self._popen.stdout.close()


@dataclass
class Stack:
    """Gateways and workers on one Redis and one RabbitMQ."""

    redis_url: str
    amqp_url: str
    folder: Path
    extra: dict[str, str] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "GATEWAY_REDIS_URL": self.redis_url,
            "GATEWAY_AMQP_URL": self.amqp_url,
            "GATEWAY_ROOT_KEY": ROOT_KEY,
            "GATEWAY_TOKEN_SECRET": SECRET,
            "GATEWAY_ATTACHMENTS_DIR": str(self.folder / "attachments"),
            "GATEWAY_WEBHOOK_ALLOW": "127.0.0.0/8",
            "GATEWAY_LEASE": "2",
            "PYTHONUNBUFFERED": "1",
            **self.extra,
        }

    def run(self, *arguments: str, **changes: str) -> Process:
        """Start a program of ours; `changes` are variables of its environment alone."""
        process = Process(list(arguments), {**self.env, **changes})
        self.processes.append(process)
        return process

    def gateway(self, *, ready: bool = True, **changes: str) -> tuple[Process, str]:
        """Start a web process; returns it and its base URL."""
        process = self.run("gateway", "serve", "--port", "0", **changes)
        line = process.wait_for("listening")
        url = "http://127.0.0.1:" + line.rsplit("127.0.0.1:", 1)[1].split('"')[0].split("/")[0].strip()
        if ready:
            with httpx.Client(base_url=url) as client:
                assert client.get("/readyz").status_code == 200
        return process, url

    def dev(self, folder: Path) -> tuple[Process, str, str]:
        """Start `gateway dev` on nothing but a folder; returns it, its URL and its root key."""
        bare = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        process = Process(["gateway", "dev", "--port", "0", "--data", str(folder)], {**bare, "PYTHONUNBUFFERED": "1"})
        self.processes.append(process)
        url, _, key = process.wait_for("Dashboard").split()[-1].partition("/#key=")
        return process, url, key

    def worker(self, *options: str, module: str = "consumers.examples") -> Process:
        process = self.run("consumers", "run", module, *options)
        process.wait_for("worker.registered")
        return process

    def stop(self) -> None:
        for process in self.processes:
            process.stop()


@contextmanager
def stack(redis_url: str, amqp_url: str, folder: Path, **extra: str) -> Iterator[Stack]:
    """A stack that is stopped at the end, whatever happened."""
    running = Stack(redis_url, amqp_url, folder, extra)
    try:
        yield running
    finally:
        running.stop()


def client(url: str, key: str = ROOT_KEY) -> httpx.AsyncClient:
    """An HTTP client signed in with a key."""
    return httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)
