"""Attachments: files a task leaves with its job, in a local folder shared by workers and web processes."""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from gateway.errors import BodyTooLarge, FieldError, InvalidFields, NotFound
from gateway.jobs.model import JOB_ID

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}\Z")
TYPE = re.compile(r"[a-z]+/[A-Za-z0-9.+-]{1,80}\Z")
MAX_BYTES = 64 * 1024 * 1024
MAX_FILES = 100


class Attachment(NamedTuple):
    """A file of a job: where it lies and what it is."""

    path: Path
    content_type: str


class Attachments:
    """The attachments of all jobs below one folder: `<tenant>/<job id>/<name>`, the media type beside it."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    async def write(
        self, tenant: str, job_id: str, name: str, data: bytes | AsyncIterator[bytes], content_type: str
    ) -> int:
        """Store a file, replacing one of that name; returns its size in bytes.

        Raises:
            InvalidFields: the name or the media type breaks a rule.
            BodyTooLarge: over 64 MiB, or the job has 100 files.
        """
        _check(name, content_type)
        folder = self._folder(tenant, job_id)
        await asyncio.to_thread(_make_room, folder, name)
        # Readers see the whole file or none: it is renamed into place.
        part = folder / f".{name}.{secrets.token_hex(6)}.part"  # two attempts may write at once
        size = 0
        try:
            with part.open("wb") as file:
                async for block in _blocks(data):
                    size += len(block)
                    if size > MAX_BYTES:
                        raise BodyTooLarge(f"an attachment may have at most {MAX_BYTES} bytes")
                    await asyncio.to_thread(file.write, block)
            await asyncio.to_thread((folder / f".{name}.type").write_text, content_type)
            await asyncio.to_thread(part.rename, folder / name)
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)
        return size

    async def read(self, tenant: str, job_id: str, name: str) -> Attachment:
        """Find a file.

        Raises:
            NotFound: the job has none of that name.
        """
        if JOB_ID.match(job_id) and NAME.match(name):
            path = self._folder(tenant, job_id) / name
            found = await asyncio.to_thread(_find, path)
            if found is not None:
                return Attachment(path, found)
        raise NotFound("the job has no such attachment")

    async def forget(self, tenant: str, job_id: str) -> None:
        """Remove a job's files."""
        await asyncio.to_thread(shutil.rmtree, self._folder(tenant, job_id), ignore_errors=True)

    def _folder(self, tenant: str, job_id: str) -> Path:
        return self._root / tenant / job_id


def url(job_id: str, name: str) -> str:
    """Return the path under which the HTTP surface serves a file."""
    return f"/v1/jobs/{job_id}/attachments/{name}"


def _check(name: str, content_type: str) -> None:
    errors = []
    if not NAME.match(name):
        errors.append(FieldError("/name", "must be 1 to 100 characters of A-Z a-z 0-9 _ . - and not start with a dot"))
    if not TYPE.match(content_type):
        errors.append(FieldError("/type", "must be a media type such as image/png"))
    if errors:
        raise InvalidFields(errors=errors)


def _make_room(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if name not in files and len(files) >= MAX_FILES:
        raise BodyTooLarge(f"a job may have at most {MAX_FILES} attachments")


def _find(path: Path) -> str | None:
    kind = path.with_name(f".{path.name}.type")
    return kind.read_text() if path.is_file() and kind.is_file() else None


async def _blocks(data: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    async for block in data:
        yield block
