"""Bounded downloads through the guarded client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO, NamedTuple

import aiohttp

from gateway.webhooks.client import guarded_session
from gateway.webhooks.guard import AddressRefused, Network

_CHUNK = 64 * 1024
_TOO_MANY_REQUESTS = 429
_SERVER_ERRORS = 500


class Downloaded(NamedTuple):
    """What came: `size` in bytes, the media type and charset the server named (both may be empty)."""

    size: int
    media_type: str
    charset: str


class DownloadFailed(Exception):
    """The download did not work. `retryable`: it may work later."""

    def __init__(self, reason: str, *, retryable: bool) -> None:
        super().__init__(reason)
        self.retryable = retryable


async def download(
    url: str,
    into: BinaryIO,
    *,
    allow: Sequence[Network] = (),
    limit: int,
    total: float = 60.0,
    progress: Callable[[int, int | None], None] = lambda _done, _total: None,
) -> Downloaded:
    """GET a URL into a file, in chunks of at most 64 KiB.

    Args:
        url: what to get; see `guard.check_url`.
        into: a file opened for writing bytes.
        allow: as in `guarded_session`.
        limit: bytes after which it stops.
        total: seconds for the whole of it.
        progress: called after each chunk with the bytes so far and the total, if the server named it;
            what it raises ends the download.

    Raises:
        DownloadFailed: a refused address, a status other than 200, more than `limit` bytes, no connection,
            a broken answer, or the deadline. The message is fit for the caller.
    """
    try:
        async with guarded_session(allow, total=total) as session, session.request("GET", url) as response:
            _check_answer(response, limit)
            size = await _copy(response, into, limit, progress)
            return Downloaded(size, response.content_type, response.charset or "")
    except AddressRefused as error:
        raise DownloadFailed(f"the address is not allowed: {error}", retryable=False) from None
    except aiohttp.InvalidURL:
        raise DownloadFailed("the URL cannot be used", retryable=False) from None
    except TimeoutError:
        raise DownloadFailed(f"the download took longer than {total:g} s", retryable=True) from None
    except aiohttp.ClientError as error:
        raise DownloadFailed(f"the download broke off: {type(error).__name__}", retryable=True) from error


def _check_answer(response: aiohttp.ClientResponse, limit: int) -> None:
    status = response.status
    if 300 <= status < 400:  # noqa: PLR2004 - RFC 9110 section 15.4
        raise DownloadFailed(f"the server redirects ({status}), which is not followed", retryable=False)
    if status != 200:  # noqa: PLR2004 - the only status that means "here it is, all of it"
        retryable = status >= _SERVER_ERRORS or status == _TOO_MANY_REQUESTS
        raise DownloadFailed(f"the server answered {status}", retryable=retryable)
    if response.content_length is not None and response.content_length > limit:
        raise _too_large(limit)


async def _copy(
    response: aiohttp.ClientResponse,
    into: BinaryIO,
    limit: int,
    progress: Callable[[int, int | None], None],
) -> int:
    size = 0
    async for chunk in response.content.iter_chunked(_CHUNK):
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        into.write(chunk)
        progress(size, response.content_length)
    return size


def _too_large(limit: int) -> DownloadFailed:
    return DownloadFailed(f"the file is larger than {limit:,} bytes", retryable=False)
