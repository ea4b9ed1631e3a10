"""Attachments in a local folder that workers and web processes share: `<tenant>/<job id>/<name>`."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from gateway.errors import NotFound
from gateway.jobs.attachments import NAME, NO_FILE, Attachment, Counted, check, check_room
from gateway.jobs.model import JOB_ID


class FolderAttachments:
    """See `gateway.jobs.attachments.Attachments`. The media type of a file lies beside it."""

    def __init__(self, root: str, limit: int) -> None:
        self._root = Path(root)
        self._limit = limit

    async def write(
        self, tenant: str, job_id: str, name: str, data: bytes | AsyncIterator[bytes], content_type: str
    ) -> int:
        """Store a file."""
        check(name, content_type)
        folder = self._folder(tenant, job_id)
        await asyncio.to_thread(_make_room, folder, name)
        # Readers see the whole file or none: it is renamed into place.
        part = folder / f".{name}.{secrets.token_hex(6)}.part"  # two attempts may write at once
        counted = Counted(data, self._limit)
        try:
            with part.open("wb") as file:
                async for block in counted:
                    await asyncio.to_thread(file.write, block)
            await asyncio.to_thread((folder / f".{name}.type").write_text, content_type)
            await asyncio.to_thread(part.rename, folder / name)
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)
        return counted.size

    async def read(self, tenant: str, job_id: str, name: str) -> Attachment:
        """Find a file."""
        if JOB_ID.match(job_id) and NAME.match(name):
            found = await asyncio.to_thread(_find, self._folder(tenant, job_id) / name)
            if found is not None:
                return found
        raise NotFound(NO_FILE)

    async def forget(self, tenant: str, job_id: str) -> None:
        """Remove a job's files."""
        await asyncio.to_thread(shutil.rmtree, self._folder(tenant, job_id), ignore_errors=True)

    def _folder(self, tenant: str, job_id: str) -> Path:
        return self._root / tenant / job_id


def _make_room(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    check_room({path.name for path in folder.iterdir() if not path.name.startswith(".")}, name)


def _find(path: Path) -> Attachment | None:
    kind = path.with_name(f".{path.name}.type")
    if not path.is_file() or not kind.is_file():
        return None
    stat = path.stat()
    return Attachment(kind.read_text(), stat.st_size, f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"', path)
