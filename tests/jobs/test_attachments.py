"""Files of jobs: whole or not there, bounded, nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import BodyTooLarge, InvalidFields, NotFound
from gateway.events import new_id
from gateway.jobs import attachments as module
from gateway.jobs.attachments import Attachments, url

TENANT = "default"


@pytest.fixture
def files(tmp_path: Path) -> Attachments:
    return Attachments(str(tmp_path / "not" / "there" / "yet"))


@pytest.fixture
def job_id() -> str:
    return new_id("job_")


async def blocks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def read(files: Attachments, job_id: str, name: str) -> bytes:
    return (await files.read(TENANT, job_id, name)).path.read_bytes()


def everything(files: Attachments) -> list[str]:
    return sorted(path.name for path in files._root.rglob("*") if path.is_file())


async def test_what_was_written_is_read_with_its_type(files: Attachments, job_id: str) -> None:
    assert await files.write(TENANT, job_id, "a.csv", b"a,b\n", "text/csv") == 4
    assert await files.write(TENANT, job_id, "b.bin", blocks(b"xx", b"", b"yyy"), "application/octet-stream") == 5
    assert await files.write(TENANT, job_id, "empty", b"", "text/plain") == 0
    found = await files.read(TENANT, job_id, "a.csv")
    assert (found.path.read_bytes(), found.content_type) == (b"a,b\n", "text/csv")
    assert await read(files, job_id, "b.bin") == b"xxyyy"
    assert await read(files, job_id, "empty") == b""
    assert url(job_id, "a.csv") == f"/v1/jobs/{job_id}/attachments/a.csv"


async def test_a_file_of_the_same_name_is_replaced(files: Attachments, job_id: str) -> None:
    await files.write(TENANT, job_id, "a", b"first and longer", "text/plain")
    await files.write(TENANT, job_id, "a", b"second", "text/csv")
    found = await files.read(TENANT, job_id, "a")
    assert (found.path.read_bytes(), found.content_type) == (b"second", "text/csv")
    assert everything(files) == [".a.type", "a"]


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
    assert not files._root.exists()


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


async def test_what_is_too_large_leaves_nothing(
    files: Attachments, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    await files.write(TENANT, job_id, "a", blocks(b"12345", b"67890"), "text/plain")
    for data in (b"x" * 11, blocks(b"x" * 10, b"x")):
        with pytest.raises(BodyTooLarge):
            await files.write(TENANT, job_id, "a", data, "text/csv")
    found = await files.read(TENANT, job_id, "a")
    assert (found.path.read_bytes(), found.content_type) == (b"1234567890", "text/plain")
    assert everything(files) == [".a.type", "a"]


async def test_an_upload_that_breaks_off_leaves_nothing(files: Attachments, job_id: str) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise LookupError

    with pytest.raises(LookupError):
        await files.write(TENANT, job_id, "a", broken(), "text/plain")
    assert everything(files) == []
    with pytest.raises(NotFound):
        await files.read(TENANT, job_id, "a")


async def test_a_job_has_at_most_a_hundred_files(files: Attachments, job_id: str) -> None:
    for number in range(module.MAX_FILES):
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
    assert everything(files) == [".a.type", "a"]


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
