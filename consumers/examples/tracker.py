"""Where the links of counted mails lead: it publishes the event and sends the reader on.

MAIL_TRACK_SECRET=… TRACK_GATEWAY=http://127.0.0.1:8000 TRACK_KEY=… \
        uvicorn --factory consumers.examples.tracker:app --port 8001
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from consumers.examples.letters import Mark, read

log = structlog.get_logger(__name__)

LIMIT: Final = 3.0  # seconds a reader waits at most for the gateway; an event is worth no more
_PIXEL: Final = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_UNCACHED: Final = {"Cache-Control": "no-store"}


def app() -> Starlette:
    """Build it from the environment: the secret, the gateway's address, and a key that may publish to `campaign:*`."""
    environment = os.environ
    return build(environment["MAIL_TRACK_SECRET"], environment["TRACK_GATEWAY"], environment["TRACK_KEY"])


def build(secret: str, gateway: str, key: str) -> Starlette:
    """Build the application: `/open/{token}` answers an empty picture, `/click/{token}` leads on."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        limit, headers = aiohttp.ClientTimeout(total=LIMIT), {"Authorization": f"Bearer {key}"}
        async with aiohttp.ClientSession(gateway, timeout=limit, headers=headers) as session:
            yield {"session": session}

    async def opened(request: Request) -> Response:
        mark = read(request.path_params["token"], secret)
        if mark is not None:
            await _publish(request.state.session, mark, "mail.opened", f"{mark.mail}-opened")
        return Response(_PIXEL, media_type="image/gif", headers=_UNCACHED)

    async def clicked(request: Request) -> Response:
        mark = read(request.path_params["token"], secret)
        if mark is None or mark.url is None:
            return PlainTextResponse("This link is not valid.", 404)
        where = hashlib.sha256(mark.url.encode()).hexdigest()[:16]
        await _publish(request.state.session, mark, "mail.clicked", f"{mark.mail}-clicked-{where}")
        return RedirectResponse(mark.url, 302, headers=_UNCACHED)

    return Starlette(routes=[Route("/open/{token}", opened), Route("/click/{token}", clicked)], lifespan=lifespan)


async def _publish(session: aiohttp.ClientSession, mark: Mark, type_: str, event_id: str) -> None:
    """Publish; the id counts a reader's double click once. A reader is sent on whatever becomes of the event."""
    data = {"mail": mark.mail, "campaign": mark.campaign} | ({"url": mark.url} if mark.url else {})
    event = {"type": type_, "channels": [f"campaign:{mark.campaign}"], "data": data, "id": event_id}
    try:
        async with session.post("/v1/events", json=event) as answer:
            if not answer.ok:
                log.warning("tracker.refused", status=answer.status, mail=mark.mail)
    except (aiohttp.ClientError, TimeoutError) as error:
        log.warning("tracker.unpublished", reason=type(error).__name__, mail=mark.mail)
