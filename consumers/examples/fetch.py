"""Downloads for tasks that run in a thread or a process."""

from __future__ import annotations

import asyncio
import tempfile
from typing import BinaryIO, cast

from consumers import Context, GiveUp, Retry
from gateway.webhooks.download import DownloadFailed, download
from gateway.webhooks.guard import networks

_IN_MEMORY = 1024 * 1024


def fetch(ctx: Context, url: str, *, limit: int, total: float = 120.0) -> BinaryIO:
    """Download a URL through the address guard into a temporary file, which stands at its start.

    Memory stays below about 1 MiB whatever the size. What the server compressed is not inflated.

    Args:
        ctx: the job; its settings say which private networks are allowed, and it hears of the progress.
        url: http or https.
        limit: bytes it may have.
        total: seconds it may take.

    Raises:
        GiveUp: a refused address, a redirect, a client error, too large.
        Retry: no connection, a server error, too slow.
    """
    into = cast("BinaryIO", tempfile.SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115 - the caller closes it
    allow = networks(ctx.settings.webhook_allow)

    def report(done: int, size: int | None) -> None:
        ctx.progress(done, size, f"downloaded {done:,} bytes")

    try:
        asyncio.run(download(url, into, allow=allow, limit=limit, total=total, progress=report))
    except DownloadFailed as error:
        into.close()
        raise (Retry if error.retryable else GiveUp)(str(error)) from None
    except BaseException:
        into.close()
        raise
    into.seek(0)
    return into
