"""A context that only remembers, and a web server on loopback to download from."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from gateway.settings import Settings


@dataclass
class FakeContext:
    settings: Settings = field(default_factory=Settings)
    attempt: int = 1
    cancelled: bool = False
    reports: list[tuple[float, float | None, str | None]] = field(default_factory=list)
    files: dict[str, tuple[bytes, str]] = field(default_factory=dict)

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        self.reports.append((done, total, message))

    def attach_sync(self, name: str, data: bytes, content_type: str) -> dict[str, Any]:
        self.files[name] = (data, content_type)
        return {"name": name, "size": len(data), "type": content_type, "url": f"/{name}"}


@dataclass
class Files:
    """What the server has: a path's body; and what was asked for."""

    url: str = ""
    bodies: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sent: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        match request.path:
            case "/redirect":
                raise web.HTTPFound("/file.csv")
            case "/endless":
                return await self._endless(request)
            case "/packed.csv":
                body = gzip.compress(b"a,b\n1,2\n")
                return web.Response(body=body, headers={"Content-Encoding": "gzip"})
            case path if path.startswith("/status/"):
                return web.Response(status=int(path.removeprefix("/status/")))
            case path if path in self.bodies:
                return web.Response(body=self.bodies[path])
        raise web.HTTPNotFound

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65536)
                self.sent += 65536
        except ConnectionError:
            return response
