"""`report.csv`: describes a CSV file column by column, in one pass and bounded memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import msgspec

from consumers import Context, GiveUp, task
from consumers.examples.columns import ColumnStats
from consumers.examples.csvfile import NotCsv, Table
from consumers.examples.fetch import fetch
from consumers.examples.inputs import one_of, parse

MAX_COLUMNS = 200
MAX_DOWNLOAD = 64 * 1024 * 1024
SAMPLE = Path(__file__).parent / "data" / "weather.csv"
_REPORT_EVERY = 64 * 1024  # bytes at least between two progress reports; a hundredth of larger files

# (bytes done, bytes altogether, for people)
Progress = Callable[[int, int, str], None]


class ReportInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The input of `report.csv`: exactly one of `csv`, `url` and `sample`.

    Attributes:
        csv: the file's text.
        url: where to download it, at most 64 MiB.
        sample: true for the file that comes with the examples.
        delimiter: guessed if not given.
        header: whether the first row names the columns; guessed if not given.
    """

    csv: str | None = None
    url: Annotated[str, msgspec.Meta(max_length=2048)] | None = None
    sample: bool = False
    delimiter: Literal[",", ";", "\t", "|"] | None = None
    header: bool | None = None


# A process of its own: this is all Python, and in a thread it would hold up everything else in the worker.
@task("report.csv", timeout=600, max_attempts=5, processes=True)
def report(ctx: Context, job_input: object) -> dict[str, Any]:
    """Describe a CSV file; see `ReportInput` and `summarise`.

    Raises:
        GiveUp: the input is not valid, the file cannot be had or is no CSV.
        Retry: the download may work later.
    """
    wanted = parse(job_input, ReportInput)
    with _open(ctx, wanted) as file:
        try:
            return summarise(file, ctx.progress, delimiter=wanted.delimiter, header=wanted.header)
        except NotCsv as error:
            raise GiveUp(str(error)) from None


def _open(ctx: Context, wanted: ReportInput) -> BinaryIO:
    one_of(csv=wanted.csv, url=wanted.url, sample=wanted.sample)
    if wanted.url is not None:
        return fetch(ctx, wanted.url, limit=MAX_DOWNLOAD)
    if wanted.csv is not None:
        return io.BytesIO(wanted.csv.encode("utf-8", "replace"))
    return SAMPLE.open("rb")


def summarise(
    file: BinaryIO, progress: Progress, *, delimiter: str | None = None, header: bool | None = None
) -> dict[str, Any]:
    """Describe a CSV file.

    Args:
        file: seekable; it is read once and closed.
        progress: called every 64 KiB (of a large file: every hundredth) and at the end.
        delimiter: instead of guessing it.
        header: instead of guessing it.

    Returns:
        `rows`, `bytes`, `delimiter`, `header`, `columns` (of each what `columns.Column` says, at most 200),
        `columns_left_out`, and `issues`: {kind: {count, first_line}} of what was read over.

    Raises:
        NotCsv: it cannot be read.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    table = Table(file, delimiter=delimiter, header=header)
    columns = [ColumnStats(name) for name in table.names[:MAX_COLUMNS]]
    try:
        rows = _read(table, columns, size, progress)
    finally:
        table.lines.close()
    progress(size, size, f"{rows} rows")
    return {
        "rows": rows,
        "bytes": size,
        "delimiter": table.layout.delimiter,
        "header": table.layout.header,
        "columns": [msgspec.to_builtins(column.describe()) for column in columns],
        "columns_left_out": len(table.names) - len(columns),
        "issues": table.issues.describe(),
    }


def _read(table: Table, columns: list[ColumnStats], size: int, progress: Progress) -> int:
    every = max(_REPORT_EVERY, size // 100)
    rows, due = 0, every
    for row in table.rows():
        rows += 1
        for column, field in zip(columns, row, strict=False):  # columns over the cap are left out
            column.add(field)
        if (done := table.lines.position) >= due:
            due = done + every
            progress(done, size, f"row {rows} of about {rows * size // done}")
    return rows
