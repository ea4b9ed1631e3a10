"""The dashboard's files: the page at `/`, its assets below `/static/`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

_HEADERS = {
    # Everything from here, nothing inline: what a stranger put into a job's name stays text.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Revalidated each time: files have no hashes in their names, and a mixture of two versions must not happen.
    "Cache-Control": "no-cache",
}


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


def folder() -> Path:
    """Return where the dashboard lies: in the source tree, or inside the installed package."""
    package = Path(__file__).parent.parent
    source = package.parent / "static"
    return source if (source / "index.html").is_file() else package / "_static"


def page_routes(samples: Mapping[str, Path]) -> list[BaseRoute]:
    """Return the routes of the dashboard.

    Args:
        samples: files to offer for trying things out, by their name below `/static/`.
    """
    root = folder()

    async def index(request: Request) -> Response:
        del request
        return FileResponse(root / "index.html", headers=_HEADERS)

    def offer(name: str, path: Path) -> Route:
        async def send(request: Request) -> Response:
            del request
            return FileResponse(path, headers=_HEADERS)

        return Route(f"/static/{name}", send)

    offered = [offer(name, path) for name, path in samples.items()]
    return [Route("/", index), *offered, Mount("/static", _Files(directory=root))]
