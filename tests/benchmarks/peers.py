"""The servers that are measured, each on one core: ours, the floor, nginx with nchan, plain Starlette."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import jwt

from gateway.events import Publication
from gateway.fanout import frames
from gateway.fanout.wire import Entry, push_prefix, pushes
from tests.benchmarks.publisher import TYPE, event
from tests.benchmarks.tools import LOAD_CORE, ROOT, SERVER_CORE, Load, environment, pinned, python
from tests.support.process import Child, exchange, free_port

SECRET = "a secret of the benchmarks, long enough for HS256"
START_LIMIT = 30.0
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
_GET = b"GET %b HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n"


class Tools(NamedTuple):
    """What the servers share: compiled programs, Redis, and a file with one token per subscriber."""

    fan: str
    floor: str
    redis_url: str
    tokens: Path


def write_tokens(path: Path, count: int) -> None:
    """Write a JSON Web Token per subscriber, each of a user of its own."""
    caps = [{"channels": ["bench.*"], "match": "wildcard", "allow": ["sub", "hst"]}]
    claims = {"exp": int(time.time()) + 3600, "caps": caps}
    tokens = (jwt.encode({**claims, "sub": f"user{number}"}, SECRET, algorithm="HS256") for number in range(count))
    path.write_text("".join(f"{token}\n" for token in tokens))


class Publishing:
    """A publisher that runs, as a process of its own."""

    def __init__(self, job: dict[str, Any]) -> None:
        command = pinned(LOAD_CORE, python("-m", "tests.benchmarks.publisher", json.dumps(job)))
        self._process = subprocess.Popen(command, env=environment(), cwd=ROOT, stdout=subprocess.PIPE)

    def stop(self) -> dict[str, Any] | None:
        """Return what it says, or None when it has to be ended: the server did not take everything in time."""
        try:
            output, _ = self._process.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return None
        assert self._process.returncode == 0, "the publisher failed"
        found: dict[str, Any] = json.loads(output)
        return found


class Peer:
    """A server under measurement. `name` is what the tables call it."""

    name: ClassVar[str]

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._child: Child | None = None

    @classmethod
    def available(cls) -> bool:
        """Whether this machine has it."""
        return True

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return environment()

    def answers(self) -> bool:
        return exchange(self.port, _GET % b"/", b"HTTP/1.1")

    def load(self, kind: str, count: int, channels: int) -> Load:
        """Return how subscribers are opened here."""
        raise NotImplementedError

    def publish(self, rate: float, count: int, channels: int, *, recorded: bool) -> Publishing | None:
        """Start publishing; None when the server does it by itself."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._child = Child(pinned(SERVER_CORE, self.command()), self.folder, self.environment())
        self._child.wait_for(self.answers, START_LIMIT)
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.kill()
        self._remove()


class Gateway(Peer):
    """Ours: `gateway serve`, one process. Publishing goes through Redis, past this process."""

    name = "gateway"

    def command(self) -> list[str]:
        return python("-m", "gateway", "serve", "--port", str(self.port))

    def environment(self) -> dict[str, str]:
        return environment(
            GATEWAY_REDIS_URL=self.tools.redis_url,
            GATEWAY_AMQP_URL="memory://",
            GATEWAY_TOKEN_SECRET=SECRET,
            GATEWAY_LOG_LEVEL="warning",
        )

    def answers(self) -> bool:
        return exchange(self.port, _GET % b"/readyz", b"HTTP/1.1 200")

    def load(self, kind: str, count: int, channels: int) -> Load:
        tokens = self.tools.tokens
        if kind == "sse":
            path, headers = "/v1/stream?channel=bench.%i", ("Authorization: Bearer %t",)
            return Load(kind, self.port, path, count, channels, headers, (("", "event: gateway.open"),), tokens)
        connect = ('{"id":1,"connect":{"token":"%t","name":"bench"}}', '"id":1,')
        subscribe = ('{"id":2,"subscribe":{"channel":"bench.%i"}}', '"id":2,')
        path = "/connection/websocket"
        return Load(kind, self.port, path, count, channels, (), (connect, subscribe), tokens)

    def publish(self, rate: float, count: int, channels: int, *, recorded: bool) -> Publishing:
        how = "record" if recorded else "live"
        url = self.tools.redis_url
        return Publishing({"how": how, "url": url, "channels": channels, "rate": rate, "count": count})


class Plain(Peer):
    """uvicorn and Starlette, see `plain`."""

    name = "uvicorn + Starlette"

    def command(self) -> list[str]:
        options = ["--port", str(self.port), "--log-level", "warning"]
        return python("-m", "uvicorn", "tests.benchmarks.plain:app", *options)

    def environment(self) -> dict[str, str]:
        return environment(PLAIN_REDIS_URL=self.tools.redis_url, PLAIN_SECRET=SECRET)

    def load(self, kind: str, count: int, channels: int) -> Load:
        tokens = self.tools.tokens
        if kind == "sse":
            path, headers = "/stream?channel=bench.%i", ("Authorization: Bearer %t",)
            return Load(kind, self.port, path, count, channels, headers, (("", ": open"),), tokens)
        connect, subscribe = ('{"token":"%t"}', "connected"), ('{"subscribe":"bench.%i"}', "subscribed")
        return Load(kind, self.port, "/ws", count, channels, (), (connect, subscribe), tokens)

    def publish(self, rate: float, count: int, channels: int, *, recorded: bool) -> Publishing:
        del recorded
        url = self.tools.redis_url
        return Publishing({"how": "redis", "url": url, "channels": channels, "rate": rate, "count": count})


_NGINX = """
load_module {module};
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid nginx.pid;
error_log stderr error;
events {{ worker_connections {files}; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    nchan_shared_memory_size 512M;
    keepalive_requests 1000000000;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location ~ ^/pub/(.+)$ {{ nchan_publisher; nchan_channel_id $1; }}
        location ~ ^/sub/(.+)$ {{
            nchan_subscriber websocket eventsource; nchan_channel_id $1; nchan_subscriber_first_message newest;
        }}
    }}
}}
"""


class Nchan(Peer):
    """nginx with nchan, one worker, its own publish endpoint (which costs the same worker a request per message)."""

    name = "nginx + nchan"

    @classmethod
    def available(cls) -> bool:
        return NCHAN_MODULE.exists() and _nginx() is not None

    def command(self) -> list[str]:
        config = self.folder / "nginx.conf"
        config.write_text(_NGINX.format(module=NCHAN_MODULE, port=self.port, files=11_000))
        return [_nginx() or "nginx", "-p", f"{self.folder}/", "-c", str(config), "-e", "stderr"]

    def load(self, kind: str, count: int, channels: int) -> Load:
        return Load(kind, self.port, "/sub/bench.%i", count, channels)

    def publish(self, rate: float, count: int, channels: int, *, recorded: bool) -> Publishing:
        del recorded
        return Publishing({"how": "nchan", "port": self.port, "channels": channels, "rate": rate, "count": count})


def _nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


class Floor(Peer):
    """One `send()` per subscriber and message, in C, of as many bytes as ours sends."""

    name = "floor: send() in C"

    def __init__(self, tools: Tools, kind: str, channels: int) -> None:
        super().__init__(tools)
        self._size, self._channels = wire_size(kind), channels
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        words = [self.tools.floor, str(self.port), str(self._size), str(self._channels)]
        # It ends when nobody holds its stdin any more.
        command, pipe = pinned(SERVER_CORE, words), subprocess.PIPE
        process = self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "LISTENING\n"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()
        self._remove()

    def load(self, kind: str, count: int, channels: int) -> Load:
        return Load(kind, self.port, "/", count, channels)

    def publish(self, rate: float, count: int, channels: int, *, recorded: bool) -> None:
        del channels, recorded
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{rate} {count}\n")
        self._process.stdin.flush()


def wire_size(kind: str) -> int:
    """Return the bytes of one event as our subscribers get it."""
    entry = Entry(Publication("abcdefgh.1", 100, 100_000, TYPE, "", b"", event(100)))
    return len(frames.text(pushes(push_prefix("bench.0"), [entry.pub])) if kind == "ws" else entry.block)
