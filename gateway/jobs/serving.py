"""Attachments over HTTP."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from gateway.jobs.attachments import Attachment
from gateway.web.ranges import NotSatisfiable, wanted

_HEADERS: Final = {
    # Whatever a task stored, no browser runs it as a page of ours.
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cache-Control": "private, max-age=3600",
}


def attachment_response(request: Request, found: Attachment) -> Response:
    """Answer a file, or the range of it that was asked for."""
    if found.path is not None:
        return FileResponse(found.path, media_type=found.content_type, headers=_HEADERS)
    if found.blocks is None:
        raise AssertionError("an attachment is a local file or has blocks")
    headers = {**_HEADERS, "Accept-Ranges": "bytes", "ETag": found.etag}
    try:
        part = wanted(request.headers.get("range"), request.headers.get("if-range"), found.etag, found.size)
    except NotSatisfiable:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{found.size}"})
    start, end = part or (0, found.size)
    headers["Content-Length"] = str(end - start)
    status = 200
    if part is not None:
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
    if request.method == "HEAD" or start == end:
        return Response(status_code=status, headers=headers, media_type=found.content_type)
    return StreamingResponse(found.blocks(start, end), status, headers=headers, media_type=found.content_type)
