"""`sync.products`: brings a table up to date with a file, every night: extract, validate, upsert, verify."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import msgspec

from consumers import Context, GiveUp, task
from consumers.examples.fetch import fetch
from consumers.examples.inputs import parse
from consumers.examples.products import COLUMNS, NotProducts, Product, Rejected, Table, checksum, read

SAMPLE: Final = Path(__file__).parent / "data" / "products.csv"
MAX_BYTES: Final = 8 * 1024 * 1024
MAX_REJECTED: Final = 0.2  # more bad rows than this say that the source has changed, not its rows
STEPS: Final = 4


class SyncInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The input of `sync.products`; with neither, the file that comes with the examples.

    Attributes:
        csv: the file's text, with the columns sku, name, price and stock.
        url: where to download it, at most 8 MiB.
    """

    csv: str | None = None
    url: Annotated[str, msgspec.Meta(max_length=2048)] | None = None


def database() -> Path:
    """Return where the table is: `products.sqlite` in `$EXAMPLES_DATA`, or in `.data`."""
    return Path(os.environ.get("EXAMPLES_DATA") or ".data") / "products.sqlite"


@task("sync.products", timeout=600, schedule="0 3 * * *")
def sync(ctx: Context, job_input: object) -> dict[str, Any]:
    """Bring the table up to date; see `SyncInput`. Done twice, the second time changes nothing.

    Returns:
        `read` (rows), `inserted`, `updated`, `unchanged`, `not_in_source` (products left alone), `checksum`, and if
        there are bad rows `rejected` {count, first, file}.

    Raises:
        GiveUp: the input is not valid, the file cannot be had or read, or over a fifth of its rows are bad.
        Retry: the download may work later.
        LockBusy: another sync is at it; the job waits for it.
    """
    wanted = parse(job_input, SyncInput)
    if wanted.csv is not None and wanted.url is not None:
        raise GiveUp('input is not valid: give "csv" or "url", not both')
    # One at a time: a slow sync of yesterday's file must not write over today's.
    with ctx.lock("sync.products", wait=5):
        ctx.progress(0, STEPS, "extract")
        with _extract(ctx, wanted) as file:
            products, rejected, rows = _validate(ctx, file)
        ctx.progress(2, STEPS, f"upsert {len(products):,} products")
        with Table.opened(database()) as table:
            upserted = table.upsert(products)
            ctx.progress(3, STEPS, "verify")
            total, proof = table.count(), _verify(table, products)
    ctx.progress(4, STEPS, f"{upserted.inserted} new, {upserted.updated} changed, {upserted.unchanged} as they were")
    report = {"rejected": _report(ctx, rejected)} if rejected else {}
    return {"read": rows, **upserted._asdict(), "not_in_source": total - len(products), "checksum": proof, **report}


def _extract(ctx: Context, wanted: SyncInput) -> TextIO:
    if wanted.url is not None:
        file = fetch(ctx, wanted.url, limit=MAX_BYTES)
    elif wanted.csv is not None:
        file = io.BytesIO(wanted.csv.encode("utf-8", "replace"))
    else:
        file = SAMPLE.open("rb")
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")  # spreadsheets begin with a byte order mark


def _validate(ctx: Context, file: TextIO) -> tuple[list[Product], list[Rejected], int]:
    """Return the products sorted by SKU (the last row of one counts), the bad rows, and how many rows there were."""
    ctx.progress(1, STEPS, "validate")
    try:
        rows = list(read(file))
    except NotProducts as error:
        raise GiveUp(str(error)) from None
    rejected = [row for row in rows if isinstance(row, Rejected)]
    if len(rejected) > MAX_REJECTED * len(rows):
        first = rejected[0]
        raise GiveUp(
            f"{len(rejected)} of {len(rows)} rows are bad, so nothing was written; line {first.line}: {first.reason}"
        )
    latest = {row.sku: row for row in rows if isinstance(row, Product)}
    return [latest[sku] for sku in sorted(latest)], rejected, len(rows)


def _verify(table: Table, products: list[Product]) -> str:
    """Compare what the table says with what was read; raises, so nothing is kept, if it differs."""
    expected, found = checksum(products), checksum(table.select(product.sku for product in products))
    if found != expected:
        raise RuntimeError(f"the table has {found} where the source has {expected}")
    return found


def _report(ctx: Context, rejected: list[Rejected]) -> dict[str, Any]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["line", "reason", *COLUMNS])
    writer.writerows([row.line, row.reason, *row.cells] for row in rejected)
    attached = ctx.attach_sync("rejected.csv", text.getvalue().encode(), "text/csv")
    return {"count": len(rejected), "first": f"line {rejected[0].line}: {rejected[0].reason}", "file": attached}
