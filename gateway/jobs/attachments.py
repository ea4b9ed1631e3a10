"""Attachments: files a task leaves with its job. The rules and the port; `folder` and `bucket` keep them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from gateway.errors import BodyTooLarge, ConfigurationError, FieldError, InvalidFields
from gateway.settings import PREFIX, Settings

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}\Z")
TYPE = re.compile(r"[a-z]+/[A-Za-z0-9.+-]{1,80}\Z")
MAX_FILES: Final = 100
NO_FILE: Final = "the job has no such attachment"


class Attachment(NamedTuple):
    """A file of a job.

    Attributes:
        content_type: its media type, as its task said.
        size: bytes.
        etag: names this content, with its quotes (RFC 9110 section 8.8.3).
        path: where it lies, if it is a local file.
        blocks: reads it from a byte to before another one, if it is not.
    """

    content_type: str
    size: int
    etag: str
    path: Path | None = None
    blocks: Callable[[int, int], AsyncIterator[bytes]] | None = None


class Attachments(Protocol):
    """The files of all jobs."""

    async def write(
        self, tenant: str, job_id: str, name: str, data: bytes | AsyncIterator[bytes], content_type: str
    ) -> int:
        """Store a file, replacing one of that name; returns its size in bytes. Readers see all of it or nothing.

        Raises:
            InvalidFields: the name or the media type breaks a rule.
            BodyTooLarge: it is larger than allowed, or the job has 100 files.
            FilesUnavailable: where the files are kept is away.
        """

    async def read(self, tenant: str, job_id: str, name: str) -> Attachment:
        """Find a file.

        Raises:
            NotFound: the job has none of that name.
            FilesUnavailable: where the files are kept is away.
        """

    async def forget(self, tenant: str, job_id: str) -> None:
        """Remove a job's files; again if need be.

        Raises:
            FilesUnavailable: where the files are kept is away.
        """


@asynccontextmanager
async def open_attachments(settings: Settings) -> AsyncIterator[Attachments]:
    """Open what keeps the files: a folder, or the bucket of `attachments_url`.

    Raises:
        ConfigurationError: the address is not of a bucket, or the library is not installed.
    """
    # Imported here: they know this module's rules, and who keeps files in a folder needs no S3 client.
    if settings.attachments_url is None:
        from gateway.jobs.folder import FolderAttachments  # noqa: PLC0415 - see above

        yield FolderAttachments(settings.attachments_dir, settings.max_attachment_bytes)
        return
    name, prefix = _bucket_of(settings.attachments_url)
    try:
        from gateway.jobs.bucket import BucketAttachments  # noqa: PLC0415 - see above
    except ModuleNotFoundError:
        needed = "pip install 'notification-gateway[s3]'"
        raise ConfigurationError(f"{PREFIX}ATTACHMENTS_URL needs the extra s3: {needed}") from None
    async with BucketAttachments.open(name, prefix, settings.max_attachment_bytes) as bucket:
        yield bucket


def _bucket_of(address: str) -> tuple[str, str]:
    """Return bucket and prefix; raises ConfigurationError."""
    wrong = ConfigurationError(f"{PREFIX}ATTACHMENTS_URL must be of the form s3://bucket or s3://bucket/prefix")
    try:
        where = urlsplit(address)
    except ValueError:
        raise wrong from None
    if where.scheme != "s3" or not where.netloc or where.query or where.fragment:
        raise wrong
    return where.netloc, where.path.strip("/")


def url(job_id: str, name: str) -> str:
    """Return the path under which the HTTP surface serves a file."""
    return f"/v1/jobs/{job_id}/attachments/{name}"


def check(name: str, content_type: str) -> None:
    """Check what a task calls a file; raises InvalidFields."""
    errors = []
    if not NAME.match(name):
        errors.append(FieldError("/name", "must be 1 to 100 characters of A-Z a-z 0-9 _ . - and not start with a dot"))
    if not TYPE.match(content_type):
        errors.append(FieldError("/type", "must be a media type such as image/png"))
    if errors:
        raise InvalidFields(errors=errors)


def check_room(names: set[str], name: str) -> None:
    """Check that a job that has these files may have this one; raises BodyTooLarge."""
    if name not in names and len(names) >= MAX_FILES:
        raise BodyTooLarge(f"a job may have at most {MAX_FILES} attachments")


class Counted:
    """The blocks of a file that is being written, counted.

    Attributes:
        size: bytes that came.
    """

    def __init__(self, data: bytes | AsyncIterator[bytes], limit: int) -> None:
        self._data = data
        self._limit = limit
        self.size = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Go through them; raises BodyTooLarge at the first byte too many."""
        async for block in _blocks(self._data):
            self.size += len(block)
            if self.size > self._limit:
                raise BodyTooLarge(f"an attachment may have at most {self._limit} bytes")
            if block:
                yield block


async def _blocks(data: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    async for block in data:
        yield block
