"""Files of jobs: whole or not there, bounded, nobody else's; in a folder and in a bucket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.errors import BodyTooLarge, ConfigurationError, FilesUnavailable, InvalidFields, NotFound
from gateway.events import new_id
from gateway.jobs.attachments import MAX_FILES, Attachments, open_attachments, url
from gateway.jobs.bucket import PART, BucketAttachments
from gateway.jobs.folder import FolderAttachments
from gateway.settings import Settings
from tests.support.buckets import BUCKET, BucketServer

TENANT = "default"
SMALL = 10


@pytest.fixture(scope="module")
def bucket_server() -> Iterator[BucketServer]:
    with BucketServer() as server:
        yield server


@pytest.fixture(params=["folder", "bucket"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    if request.param == "folder":
        return Settings(attachments_dir=str(tmp_path / "not" / "there" / "yet"))
    server: BucketServer = request.getfixturevalue("bucket_server")
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    return Settings(attachments_url=f"s3://{BUCKET}/{new_id('test_')}")


@pytest.fixture
async def files(settings: Settings) -> AsyncIterator[Attachments]:
    async with open_attachments(settings) as opened:
        yield opened


@pytest.fixture
def job_id() -> str:
    return new_id("job_")


async def blocks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def read(files: Attachments, job_id: str, name: str) -> bytes:
    found = await files.read(TENANT, job_id, name)
    if found.path is not None:
        return found.path.read_bytes()
    assert found.blocks is not None
    return b"".join([block async for block in found.blocks(0, found.size)]) if found.size else b""


async def names(files: Attachments, job_id: str) -> list[str]:
    """All there is of a job, also what nobody may read."""
    if isinstance(files, FolderAttachments):
        found = {path.name for path in files._root.rglob("*") if path.is_file()}
        return sorted(name for name in found if not (name.startswith(".") and name[1:-5] in found))
    assert isinstance(files, BucketAttachments)
    uploads = await files._client.list_multipart_uploads(Bucket=BUCKET)
    assert "Uploads" not in uploads
    return sorted(key.rsplit("/", 1)[-1] for key in await files._keys(TENANT, job_id))


async def test_what_was_written_is_read_with_its_type(files: Attachments, job_id: str) -> None:
    assert await files.write(TENANT, job_id, "a.csv", b"a,b\n", "text/csv") == 4
    assert await files.write(TENANT, job_id, "b.bin", blocks(b"xx", b"", b"yyy"), "application/octet-stream") == 5
    assert await files.write(TENANT, job_id, "empty", b"", "text/plain") == 0
    found = await files.read(TENANT, job_id, "a.csv")
    assert (found.content_type, found.size) == ("text/csv", 4)
    assert await read(files, job_id, "a.csv") == b"a,b\n"
    assert await read(files, job_id, "b.bin") == b"xxyyy"
    assert await read(files, job_id, "empty") == b""
    assert url(job_id, "a.csv") == f"/v1/jobs/{job_id}/attachments/a.csv"


async def test_a_file_of_the_same_name_is_replaced(files: Attachments, job_id: str) -> None:
    await files.write(TENANT, job_id, "a", b"first and longer", "text/plain")
    await files.write(TENANT, job_id, "a", b"second", "text/csv")
    assert (await files.read(TENANT, job_id, "a")).content_type == "text/csv"
    assert await read(files, job_id, "a") == b"second"
    assert await names(files, job_id) == ["a"]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "../x", "a/b", "/etc/passwd", "a\\b", "a b", "a\n", "a\0", "é", "x" * 101, "a%2Fb", "~"],
)
async def test_a_name_that_could_lead_elsewhere_is_refused(files: Attachments, job_id: str, name: str) -> None:
    with pytest.raises(InvalidFields) as raised:
        await files.write(TENANT, job_id, name, b"x", "text/plain")
    assert [error.pointer for error in raised.value.errors] == ["/name"]
    with pytest.raises(NotFound):
        await files.read(TENANT, job_id, name)
    assert await names(files, job_id) == []


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "x" * 100, "a..b", "a.part", "-"])
async def test_names_that_are_allowed(files: Attachments, job_id: str, name: str) -> None:
    await files.write(TENANT, job_id, name, b"x", "text/plain")
    assert await read(files, job_id, name) == b"x"


@pytest.mark.parametrize("kind", ["", "text", "text/", "/csv", "text/html; charset=utf-8", "text/csv\n", "te xt/csv"])
async def test_a_media_type_that_is_none_is_refused(files: Attachments, job_id: str, kind: str) -> None:
    with pytest.raises(InvalidFields) as raised:
        await files.write(TENANT, job_id, "bad name", b"x", kind)
    assert [error.pointer for error in raised.value.errors] == ["/name", "/type"]


@pytest.mark.parametrize("stranger", ["", "..", "job_", "../default/job_x", "job_" + "0" * 25, "job_" + "0" * 27])
async def test_a_job_id_that_is_none_has_no_files(files: Attachments, job_id: str, stranger: str) -> None:
    await files.write(TENANT, job_id, "a", b"x", "text/plain")
    with pytest.raises(NotFound):
        await files.read(TENANT, stranger, "a")


async def test_files_of_another_tenant_or_job_are_not_found(files: Attachments, job_id: str) -> None:
    await files.write("acme", job_id, "a", b"x", "text/plain")
    for tenant, other in ((TENANT, job_id), ("acme", new_id("job_"))):
        with pytest.raises(NotFound):
            await files.read(tenant, other, "a")


async def test_what_is_too_large_leaves_nothing(settings: Settings, job_id: str) -> None:
    async with open_attachments(_limited(settings, SMALL)) as files:
        await files.write(TENANT, job_id, "a", blocks(b"12345", b"67890"), "text/plain")
        for data in (b"x" * 11, blocks(b"x" * 10, b"x")):
            with pytest.raises(BodyTooLarge):
                await files.write(TENANT, job_id, "a", data, "text/csv")
        assert (await files.read(TENANT, job_id, "a")).content_type == "text/plain"
        assert await read(files, job_id, "a") == b"1234567890"
        assert await names(files, job_id) == ["a"]


async def test_what_is_stored_in_parts_is_whole_or_not_there(settings: Settings, job_id: str) -> None:
    block = bytes(range(256)) * 4096  # a MiB
    count = 2 * PART // len(block) + 1
    async with open_attachments(_limited(settings, count * len(block))) as files:
        with pytest.raises(BodyTooLarge):
            await files.write(TENANT, job_id, "a", blocks(*[block] * count, b"x"), "text/csv")
        assert await names(files, job_id) == []
        size = await files.write(TENANT, job_id, "a", blocks(*[block] * count), "video/mp4")
        assert size == count * len(block)
        assert await read(files, job_id, "a") == block * count
        assert (await files.read(TENANT, job_id, "a")).content_type == "video/mp4"


def _limited(settings: Settings, limit: int) -> Settings:
    return msgspec.structs.replace(settings, max_attachment_bytes=limit)


async def test_an_upload_that_breaks_off_leaves_nothing(files: Attachments, job_id: str) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise LookupError

    with pytest.raises(LookupError):
        await files.write(TENANT, job_id, "a", broken(), "text/plain")
    assert await names(files, job_id) == []
    with pytest.raises(NotFound):
        await files.read(TENANT, job_id, "a")


async def test_a_job_has_at_most_a_hundred_files(files: Attachments, job_id: str) -> None:
    for number in range(MAX_FILES):
        await files.write(TENANT, job_id, f"f{number}", b"", "text/plain")
    with pytest.raises(BodyTooLarge):
        await files.write(TENANT, job_id, "one-more", b"", "text/plain")
    await files.write(TENANT, job_id, "f0", b"replaced", "text/plain")
    await files.write(TENANT, new_id("job_"), "one-more", b"", "text/plain")


async def test_two_attempts_that_write_the_same_file_at_once_do_not_mix(files: Attachments, job_id: str) -> None:
    turns = [asyncio.Event() for _ in range(2)]
    turns[0].set()

    async def in_turn(letter: bytes, mine: int) -> AsyncIterator[bytes]:
        for _ in range(3):
            await turns[mine].wait()
            turns[mine].clear()
            yield letter * 1000
            turns[1 - mine].set()
        turns[1 - mine].set()

    writing = [files.write(TENANT, job_id, "a", in_turn(letter, mine), "text/plain") for mine, letter in TWO]
    assert await asyncio.gather(*writing) == [3000, 3000]
    assert await read(files, job_id, "a") in {b"x" * 3000, b"y" * 3000}
    assert await names(files, job_id) == ["a"]


TWO = ((0, b"x"), (1, b"y"))


async def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(files: Attachments, job_id: str) -> None:
    await files.write(TENANT, job_id, "a", b"old", "text/plain")
    half, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"ne"
        half.set()
        await go_on.wait()
        yield b"w"

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(files.write(TENANT, job_id, "a", slowly(), "text/plain"))
        await half.wait()
        assert await read(files, job_id, "a") == b"old"
        go_on.set()
    assert await read(files, job_id, "a") == b"new"


async def test_forgetting_takes_a_jobs_files_and_no_others(files: Attachments, job_id: str) -> None:
    other = new_id("job_")
    for owner in (job_id, other):
        await files.write(TENANT, owner, "a", b"x", "text/plain")
    await files.forget(TENANT, job_id)
    await files.forget(TENANT, job_id)  # again: a reaper may have died in between
    with pytest.raises(NotFound):
        await files.read(TENANT, job_id, "a")
    assert await read(files, other, "a") == b"x"


async def test_a_bucket_that_is_away_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch, job_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with BucketServer() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
    async with open_attachments(Settings(attachments_url=f"s3://{BUCKET}")) as files:
        asked = (
            files.write(TENANT, job_id, "a", b"x", "text/plain"),
            files.read(TENANT, job_id, "a"),
            files.forget(TENANT, job_id),
        )
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(answer) for answer in answers] == [FilesUnavailable] * 3
    assert "secret-of-the-bucket" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "address", ["s3:", "s3:///prefix", "https://bucket/", "s3://bucket/a?b=c", "bucket", "s3://[b"]
)
async def test_an_address_that_is_no_buckets_stops_the_start(address: str) -> None:
    with pytest.raises(ConfigurationError, match="GATEWAY_ATTACHMENTS_URL must be of the form s3://bucket"):
        async with open_attachments(Settings(attachments_url=address)):
            pass
