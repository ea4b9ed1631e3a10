"""`sync.products` through a worker: the lock on a real Redis, the table in a real SQLite file."""

from __future__ import annotations

import csv
import io
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from consumers.examples.products import Product, Rejected, Table, Upserted, read
from consumers.registry import Task, load
from tests.consumers.examples.support import Files
from tests.consumers.support import Bench, WatchedQueue, open_bench

HEADER = "sku,name,price,stock\n"

pytestmark = pytest.mark.usefixtures("no_backoff")


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXAMPLES_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "products.sqlite"


@pytest.fixture
async def bench(
    redis_url: str, redis: Redis, local_queue: WatchedQueue, pool: str, tmp_path: Path, database: Path
) -> AsyncIterator[Bench]:
    del redis, database  # emptied; set
    files, allow = str(tmp_path / "files"), ("127.0.0.0/8",)
    async with open_bench(redis_url, local_queue, pool, attachments_dir=files, webhook_allow=allow) as bench:
        yield bench


@pytest.fixture
async def sync(bench: Bench) -> AsyncIterator[Task]:
    task = load("consumers.examples")["sync.products"]._replace(pool=bench.pool)
    async with bench.working(task):
        yield task


async def run(bench: Bench, value: Any, status: str = "succeeded") -> dict[str, Any]:
    return await bench.until(await bench.submit("sync.products", value=value), status)


def rows(database: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(database) as connection:
        found = connection.execute("SELECT sku, name, price, stock FROM products ORDER BY sku").fetchall()
    connection.close()
    return found


async def test_the_sample_is_synced_and_its_bad_rows_are_reported(bench: Bench, sync: Task, database: Path) -> None:
    del sync
    job = await run(bench, {})
    result = job["result"]
    assert {name: result[name] for name in ("read", "inserted", "updated", "unchanged", "not_in_source")} == {
        "read": 26,
        "inserted": 22,
        "updated": 0,
        "unchanged": 0,
        "not_in_source": 0,
    }
    assert len(rows(database)) == 22
    assert ("TEA-003", "Earl Grey", 820, 85) in rows(database)  # the last row of a product counts
    assert job["progress"]["message"] == "22 new, 0 changed, 0 as they were"
    assert result["rejected"]["count"] == 3
    report = Path(bench.settings.attachments_dir).rglob("*")
    (text,) = [path.read_text() for path in report if path.is_file() and "reason" in path.read_text()]
    found = list(csv.DictReader(io.StringIO(text)))
    assert [(row["line"], row["reason"].split(":")[0], row["sku"]) for row in found] == [
        ("11", "stock", "TEA-010"),
        ("16", "price", "COF-005"),
        ("24", "stock", "POT-004"),
    ]


async def test_a_second_time_nothing_changes(bench: Bench, sync: Task, database: Path) -> None:
    del sync
    first = (await run(bench, {}))["result"]
    written = database.read_bytes()
    again = (await run(bench, {}))["result"]
    assert (again["inserted"], again["updated"], again["unchanged"]) == (0, 0, 22)
    assert again["checksum"] == first["checksum"]
    assert database.read_bytes() == written


async def test_a_change_is_written_and_what_the_source_lacks_is_left_alone(
    bench: Bench, sync: Task, database: Path
) -> None:
    del sync
    await run(bench, {"csv": HEADER + "AAA,a,1,1\nBBB,b,2,2\nCCC,c,3,3\n"})
    result = (await run(bench, {"csv": "\ufeffstock,SKU, price ,name\n1,AAA,1.50,a\n3,CCC,3,c\n4,DDD,4,d\n"}))["result"]
    assert (result["inserted"], result["updated"], result["unchanged"], result["not_in_source"]) == (1, 1, 1, 1)
    assert rows(database) == [("AAA", "a", 150, 1), ("BBB", "b", 200, 2), ("CCC", "c", 300, 3), ("DDD", "d", 400, 4)]


async def test_a_file_from_the_web(bench: Bench, sync: Task, database: Path, files: Files) -> None:
    del sync
    files.bodies["/p.csv"] = b"\xef\xbb\xbf" + HEADER.encode() + b'AAA,"a ""b""",1,1\n'
    assert (await run(bench, {"url": f"{files.url}/p.csv"}))["result"]["inserted"] == 1
    assert rows(database) == [("AAA", 'a "b"', 100, 1)]


async def test_one_sync_waits_for_another(bench: Bench, sync: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    del sync
    running: list[int] = []
    seen: list[int] = []
    upsert = Table.upsert

    def watched(table: Table, products: Any) -> Upserted:
        running.append(1)
        seen.append(len(running))
        time.sleep(0.2)  # long enough for the others to come, were there no lock
        try:
            return upsert(table, products)
        finally:
            running.pop()

    monkeypatch.setattr(Table, "upsert", watched)
    jobs = [await bench.submit("sync.products", value={}) for _ in range(3)]
    for job_id in jobs:
        await bench.until(job_id, "succeeded", 20)
    assert seen == [1, 1, 1]


async def test_a_table_that_differs_afterwards_keeps_nothing(
    bench: Bench, sync: Task, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del sync
    monkeypatch.setattr(Table, "select", lambda *_: iter([Product("AAA", "other", 1, 1)]))
    job_id = await bench.submit("sync.products", value={"csv": HEADER + "AAA,a,1,1\n"}, max_attempts=1)
    job = await bench.until(job_id, "failed")
    assert "where the source has" in job["error"]["message"]
    assert rows(database) == []


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"csv": "a", "url": "http://x/"}, 'give "csv" or "url", not both'),
        ({"csv": ""}, "the first line must name the columns"),
        ({"csv": "sku,name\nAAA,a\n"}, "missing: price, stock"),
        ({"csv": HEADER + "AAA,a,1,1\nBBB,b,x,1\n"}, "1 of 2 rows are bad, so nothing was written; line 3: price"),
        ({"csv": HEADER + 'AAA,"' + "x" * 200_000}, "cannot be read near line"),
        ({"file": "x"}, "input is not valid"),
    ],
)
async def test_what_cannot_be_synced_writes_nothing(
    bench: Bench, sync: Task, database: Path, given: dict[str, Any], rule: str
) -> None:
    del sync
    job = await run(bench, given, "failed")
    assert (job["error"]["type"], job["attempt"]) == ("GiveUp", 1)
    assert rule in job["error"]["message"]
    assert not database.exists()


@pytest.mark.parametrize(
    ("cells", "field"),
    [
        ("AAA,a,nan,1", "price"),
        ("AAA,a,inf,1", "price"),
        ("AAA,a,-1,1", "price"),
        ("AAA,a,1,1.5", "stock"),
        ("AAA,,1,1", "name"),
        ("aaa,a,1,1", "sku"),
        ("AAA,a", "row"),
    ],
)
def test_a_row_that_is_no_product(cells: str, field: str) -> None:
    (row,) = read(io.StringIO(HEADER + cells + "\n"))
    assert isinstance(row, Rejected)
    assert (row.line, row.reason.split(":")[0]) == (2, field)
