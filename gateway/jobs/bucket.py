"""Attachments in a bucket of S3 or anything that speaks its protocol: `[<prefix>/]<tenant>/<job id>/<name>`.

Region, endpoint and credentials come from where every AWS tool looks for them (`AWS_REGION`, `AWS_ENDPOINT_URL`,
`AWS_ACCESS_KEY_ID`, …, a profile, the machine's role).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Self

import aiohttp
import structlog
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from gateway.errors import FilesUnavailable, NotFound
from gateway.jobs.attachments import MAX_FILES, NAME, NO_FILE, Attachment, Counted, check, check_room
from gateway.jobs.model import JOB_ID

log = structlog.get_logger(__name__)

BLOCK: Final = 256 * 1024  # bytes held of each file that is being sent
PART: Final = 8 * 1024 * 1024  # bytes held of each file that is being stored; S3 wants at least 5 MiB
_ABSENT: Final = frozenset({"404", "NoSuchKey", "NotFound"})
_CONFIG: Final = AioConfig(
    connect_timeout=5,
    read_timeout=60,
    retries={"max_attempts": 2, "mode": "standard"},
    # Other makers' stores do not know the checksums AWS adds by default since 2025.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)


class BucketAttachments:
    """See `gateway.jobs.attachments.Attachments`."""

    def __init__(self, client: Any, bucket: str, prefix: str, limit: int) -> None:  # noqa: ANN401 - made at run time
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._limit = limit

    @classmethod
    @asynccontextmanager
    async def open(cls, bucket: str, prefix: str, limit: int) -> AsyncIterator[Self]:
        """Open a client; nothing is sent before it is used."""
        async with get_session().create_client("s3", config=_CONFIG) as client:
            yield cls(client, bucket, prefix, limit)

    async def write(
        self, tenant: str, job_id: str, name: str, data: bytes | AsyncIterator[bytes], content_type: str
    ) -> int:
        """Store a file."""
        check(name, content_type)
        with _translated():
            check_room({key.rsplit("/", 1)[-1] for key in await self._keys(tenant, job_id)}, name)
            counted = Counted(data, self._limit)
            parts = _parts(counted)
            where = {"Bucket": self._bucket, "Key": self._key(tenant, job_id, name)}
            first = await anext(parts, b"")
            if len(first) < PART:
                await self._client.put_object(**where, Body=first, ContentType=content_type)
            else:
                await self._upload(where, first, parts, content_type)
        return counted.size

    async def _upload(self, where: dict[str, str], first: bytes, rest: AsyncIterator[bytes], content_type: str) -> None:
        """Store in parts; one that breaks off is taken back."""
        upload = await self._client.create_multipart_upload(**where, ContentType=content_type)
        where = {**where, "UploadId": upload["UploadId"]}
        try:
            done = [await self._part(where, 1, first)]
            async for block in rest:
                done.append(await self._part(where, len(done) + 1, block))
            await self._client.complete_multipart_upload(**where, MultipartUpload={"Parts": done})
        except BaseException:
            await self._client.abort_multipart_upload(**where)
            raise

    async def _part(self, where: dict[str, str], number: int, block: bytes) -> dict[str, object]:
        answer = await self._client.upload_part(**where, PartNumber=number, Body=block)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    async def read(self, tenant: str, job_id: str, name: str) -> Attachment:
        """Find a file."""
        if not JOB_ID.match(job_id) or not NAME.match(name):
            raise NotFound(NO_FILE)
        where = {"Bucket": self._bucket, "Key": self._key(tenant, job_id, name)}
        with _translated():
            found = await self._client.head_object(**where)

        async def blocks(start: int, end: int) -> AsyncIterator[bytes]:
            with _translated():
                # Only this content: another attempt may replace the file while it is being sent.
                wanted = {"IfMatch": found["ETag"], "Range": f"bytes={start}-{end - 1}"}
                part = await self._client.get_object(**where, **wanted)
                async with part["Body"] as body:
                    async for block in body.iter_chunks(BLOCK):
                        yield block

        return Attachment(found["ContentType"], found["ContentLength"], found["ETag"], blocks=blocks)

    async def forget(self, tenant: str, job_id: str) -> None:
        """Remove a job's files."""
        with _translated():
            for key in await self._keys(tenant, job_id):
                await self._client.delete_object(Bucket=self._bucket, Key=key)

    def _key(self, tenant: str, job_id: str, name: str) -> str:
        return "/".join(part for part in (self._prefix, tenant, job_id, name) if part)

    async def _keys(self, tenant: str, job_id: str) -> list[str]:
        """Return a job's files; attempts that write at once may leave some more than are allowed."""
        prefix = self._key(tenant, job_id, "") + "/"
        found = await self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=10 * MAX_FILES)
        return [item["Key"] for item in found.get("Contents", ())]


async def _parts(counted: Counted) -> AsyncIterator[bytes]:
    """Join blocks to parts; only the last one is shorter."""
    held = bytearray()
    async for block in counted:
        held += block
        while len(held) >= PART:
            yield bytes(held[:PART])
            del held[:PART]
    if held:
        yield bytes(held)


@contextmanager
def _translated() -> Iterator[None]:
    """Raise our errors instead of the library's; its messages name hosts and requests, so they go to the log."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] in _ABSENT:
            raise NotFound(NO_FILE) from None
        _log(error)
        raise FilesUnavailable from None
    except (BotoCoreError, aiohttp.ClientError, TimeoutError) as error:
        _log(error)
        raise FilesUnavailable from None


def _log(error: Exception) -> None:
    log.warning("attachments.unavailable", error=type(error).__name__, reason=str(error)[:500])
