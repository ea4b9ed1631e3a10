from __future__ import annotations

import asyncio
import csv
import io
import json
import statistics
import tracemalloc

import pytest

from consumers import GiveUp, Retry
from consumers.examples import report as module
from consumers.examples.report import SAMPLE, report, summarise
from tests.consumers.examples.support import FakeContext, Files


def test_the_shipped_file_against_the_statistics_module(ctx: FakeContext) -> None:
    found = report(ctx, {"sample": True})
    with SAMPLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (found["rows"], found["header"], found["delimiter"], found["issues"]) == (len(rows), True, ",", {})
    columns = {column["name"]: column for column in found["columns"]}
    kinds = {name: column["type"] for name, column in columns.items()}
    assert kinds == dict.fromkeys(("precipitation", "temp_max", "temp_min", "wind"), "number") | {
        "location": "string",
        "date": "date",
        "weather": "string",
    }
    for name in ("precipitation", "temp_max", "temp_min", "wind"):
        values = [float(row[name]) for row in rows]
        column = columns[name]
        assert (column["count"], column["min"], column["max"]) == (len(rows), min(values), max(values))
        assert column["mean"] == pytest.approx(statistics.fmean(values))
        assert column["stddev"] == pytest.approx(statistics.stdev(values))
        assert column["distinct"] == len(set(values))
        assert sum(column["histogram"]["counts"]) == len(rows)
    assert columns["location"]["top"] == [
        {"value": "Seattle", "count": 1461},
        {"value": "New York", "count": 1461},
    ]
    assert (columns["date"]["min"], columns["date"]["max"]) == ("2012-01-01", "2015-12-31")
    assert len(json.dumps(found)) < 16_384


def test_text_is_described_and_progress_reported(ctx: FakeContext) -> None:
    text = "id,name\n" + "".join(f"{n},name {n}\n" for n in range(20_000))
    found = report(ctx, {"csv": text})
    assert (found["rows"], found["bytes"]) == (20_000, len(text))
    done = [report[0] for report in ctx.reports]
    assert len(done) > 2
    assert done == sorted(done)
    assert list(ctx.reports[-1]) == [len(text), len(text), "20000 rows"]
    assert all(total == len(text) for _, total, _ in ctx.reports)
    assert str(ctx.reports[1][2]).startswith("row ")


@pytest.mark.parametrize(
    ("job_input", "reason"),
    [
        ({}, 'one of "csv", "url" and "sample"'),
        ({"csv": "a", "sample": True}, 'one of "csv", "url" and "sample"'),
        ({"csv": 5}, r"input\.csv"),
        ({"csv": "a", "delimiter": "x"}, r"input\.delimiter"),
        ({"csv": ""}, "the file is empty"),
        ({"csv": 'a,b\n"1,2\n'}, "never closed"),
        ({"csv": "a\0b\n"}, "NUL"),
        ({"url": "ftp://example.com/x.csv"}, "must start with http"),
        ({"url": "http://user:pw@example.com/x.csv"}, "user or password"),
    ],
)
def test_what_cannot_be_done_is_given_up_with_the_reason(ctx: FakeContext, job_input: object, reason: str) -> None:
    with pytest.raises(GiveUp, match=reason):
        report(ctx, job_input)


def test_wide_files_are_cut_to_200_columns(ctx: FakeContext) -> None:
    found = report(ctx, {"csv": ",".join(f"c{n}x" for n in range(250)) + "\n" + ",".join("1" * 250) + "\n"})
    assert (len(found["columns"]), found["columns_left_out"]) == (200, 50)


def test_memory_does_not_grow_with_the_file() -> None:
    def peak(rows: int) -> int:
        file = io.BytesIO(b"id,word,price\n" + b"".join(b"%d,w%d,%d.5\n" % (n, n % 7000, n) for n in range(rows)))
        tracemalloc.start()
        summarise(file, lambda *_: None)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(40_000) < peak(10_000) * 1.3


# --- downloads ---


async def test_a_file_is_downloaded(ctx_local: FakeContext, files: Files) -> None:
    head, _, body = SAMPLE.read_bytes().partition(b"\n")
    files.bodies["/file.csv"] = head + b"\n" + body * 12  # more than is kept in memory
    found = await asyncio.to_thread(report, ctx_local, {"url": f"{files.url}/file.csv"})
    assert found["rows"] == 2922 * 12
    assert "downloaded" in str(ctx_local.reports[0][2])


async def test_a_private_address_is_refused_without_being_allowed(ctx: FakeContext, files: Files) -> None:
    for url in (f"{files.url}/file.csv", files.url.replace("127.0.0.1", "localhost")):
        with pytest.raises(GiveUp, match=r"address is not allowed: .* loopback"):
            await asyncio.to_thread(report, ctx, {"url": url})
    assert files.asked == []


@pytest.mark.parametrize(
    ("path", "error", "reason"),
    [
        ("/redirect", GiveUp, "redirects"),
        ("/status/404", GiveUp, "answered 404"),
        ("/status/204", GiveUp, "answered 204"),
        ("/status/429", Retry, "answered 429"),
        ("/status/503", Retry, "answered 503"),
        ("/packed.csv", GiveUp, "compressed with gzip"),
    ],
)
async def test_other_answers(
    ctx_local: FakeContext, files: Files, path: str, error: type[Exception], reason: str
) -> None:
    files.bodies["/file.csv"] = b"a,b\n1,2\n"
    with pytest.raises(error, match=reason):
        await asyncio.to_thread(report, ctx_local, {"url": files.url + path})
    assert files.asked == [path]


async def test_nobody_there_is_tried_again(ctx_local: FakeContext) -> None:
    with pytest.raises(Retry, match="broke off"):
        await asyncio.to_thread(report, ctx_local, {"url": "http://127.0.0.1:1/"})


@pytest.mark.parametrize("path", ["/endless", "/large"])
async def test_a_file_over_the_limit_is_stopped_there(
    ctx_local: FakeContext, files: Files, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_DOWNLOAD", 1_000_000)
    files.bodies["/large"] = bytes(1_000_001)
    with pytest.raises(GiveUp, match="larger than 1,000,000 bytes"):
        await asyncio.to_thread(report, ctx_local, {"url": files.url + path})
    assert files.sent < 16_000_000  # what fits into the sockets' buffers beyond the limit
    assert max((done for done, _, _ in ctx_local.reports), default=0) <= 1_000_000
