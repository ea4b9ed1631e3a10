"""Products: reading them from CSV, and a table of them in SQLite."""

from __future__ import annotations

import csv
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Final, NamedTuple, TextIO

import msgspec

COLUMNS: Final = ("sku", "name", "price", "stock")
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS products (
  sku TEXT PRIMARY KEY, name TEXT NOT NULL, price INTEGER NOT NULL, stock INTEGER NOT NULL,
  synced_at TEXT NOT NULL
) WITHOUT ROWID"""
# What is as it was is not written: `synced_at` tells when a product last changed.
_UPSERT: Final = """
INSERT INTO products VALUES (?, ?, ?, ?, strftime('%Y-%m-%dT%H:%M:%fZ'))
ON CONFLICT (sku) DO UPDATE SET
  name = excluded.name, price = excluded.price, stock = excluded.stock, synced_at = excluded.synced_at
WHERE (name, price, stock) IS NOT (excluded.name, excluded.price, excluded.stock)"""


class Product(NamedTuple):
    """A product; `price` is cents."""

    sku: str
    name: str
    price: int
    stock: int


class Rejected(NamedTuple):
    """A row that is no product: its line in the file, the rule, and what stands in `COLUMNS`."""

    line: int
    reason: str
    cells: list[str]


class NotProducts(Exception):
    """The file is no CSV with the columns of a product."""


class _Row(msgspec.Struct, frozen=True):
    sku: Annotated[str, msgspec.Meta(pattern=r"^[A-Z0-9-]{3,20}\Z")]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    price: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]
    stock: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]


def read(file: TextIO) -> Iterator[Product | Rejected]:
    """Read a CSV file row by row.

    Raises:
        NotProducts: it has no header line with the columns, or is no CSV.
    """
    rows = csv.reader(file)
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        if missing := [name for name in COLUMNS if name not in header]:
            raise NotProducts(
                f"the first line must name the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}"
            )
        for row in rows:
            if row:
                yield _product(rows.line_num, dict(zip(header, map(str.strip, row), strict=False)))
    except (csv.Error, UnicodeDecodeError) as error:
        raise NotProducts(f"the file cannot be read near line {rows.line_num}: {error}") from None


def _product(line: int, cells: dict[str, str]) -> Product | Rejected:
    try:
        good = msgspec.convert(cells, _Row, strict=False)
    except msgspec.ValidationError as error:
        rule, _, place = str(error).partition(" - at `$.")
        return Rejected(
            line,
            f"{place.rstrip('`') or 'row'}: {rule[:1].lower()}{rule[1:]}",
            [cells.get(name, "") for name in COLUMNS],
        )
    return Product(good.sku, good.name, round(good.price * 100), good.stock)


def checksum(products: Iterable[Product]) -> str:
    """Return the SHA-256 of products, which come sorted by SKU."""
    digest = hashlib.sha256()
    for product in products:
        digest.update(msgspec.json.encode(product) + b"\n")
    return digest.hexdigest()


class Upserted(NamedTuple):
    """How many products were new, had changed, or were as they were."""

    inserted: int
    updated: int
    unchanged: int


class Table:
    """The table in a SQLite file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[Table]:
        """Open the file, making it if need be; what is done with the table is kept only if the body does not raise."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=10)) as connection, connection:
            connection.execute(_TABLE)
            yield cls(connection)

    def upsert(self, products: Iterable[Product]) -> Upserted:
        """Insert products or bring them up to date; repeated, it changes nothing."""
        before, given, changes = self.count(), 0, self._connection.total_changes
        for product in products:
            given += 1
            self._connection.execute(_UPSERT, product)
        inserted = self.count() - before
        written = self._connection.total_changes - changes
        return Upserted(inserted, written - inserted, given - written)

    def count(self) -> int:
        """Return how many products there are."""
        (found,) = self._connection.execute("SELECT count(*) FROM products").fetchone()
        return int(found)

    def select(self, skus: Iterable[str]) -> Iterator[Product]:
        """Return those of the products that are there, in the order asked for."""
        for sku in skus:
            for row in self._connection.execute("SELECT sku, name, price, stock FROM products WHERE sku = ?", (sku,)):
                yield Product(*row)
