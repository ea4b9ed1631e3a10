"""Reads CSV files as they are found in the wild, in one pass and bounded memory.

Reads UTF-8 and (with a byte order mark) UTF-16; single bytes that are not UTF-8 are read as Windows-1252.
What can be read in spite of a fault is counted in `Issues`; what cannot is `NotCsv`.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from typing import BinaryIO, NamedTuple, Protocol

from consumers.examples import cells

MAX_LINE = 1024 * 1024  # characters
MAX_NAME = 100
MAX_COLUMNS = 10_000
DELIMITERS = ",;\t|"
_SAMPLE_LINES = 50
_MOSTLY = 0.8  # of the sample's rows have as many fields, or the delimiter is not one
_ESCAPED = re.compile("[\udc80-\udcff]")  # how surrogateescape (PEP 383) shows bytes that are not UTF-8
_NOT_TEXT = {
    b"\x1f\x8b": "the file is compressed with gzip; send it unpacked",
    b"PK\x03\x04": "the file is a ZIP archive or a spreadsheet, not CSV",
    b"%PDF": "the file is a PDF, not CSV",
}


class NotCsv(Exception):
    """The file cannot be read as CSV; the message says where and why."""


class Issues:
    """Faults that were read over: how many of each kind, and the line of the first."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, int]] = {}

    def add(self, kind: str, line: int, count: int = 1) -> None:
        """Count a fault."""
        self._found.setdefault(kind, {"count": 0, "first_line": line})["count"] += count

    def describe(self) -> dict[str, dict[str, int]]:
        """Return the faults by kind."""
        return self._found


class Lines:
    """The lines of a file with their endings (LF, CRLF or CR), and how far it has been read."""

    def __init__(self, file: BinaryIO, issues: Issues) -> None:
        head = file.read(4)
        file.seek(0)
        for magic, reason in _NOT_TEXT.items():
            if head.startswith(magic):
                raise NotCsv(reason)
        wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
        encoding, errors = ("utf-16", "replace") if wide else ("utf-8-sig", "surrogateescape")
        self._file = file
        self._text = io.TextIOWrapper(file, encoding, errors, newline="")
        self._issues = issues
        self.number = 0

    @property
    def position(self) -> int:
        """Bytes read from the file."""
        return self._file.tell()

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(MAX_LINE + 1):
            self.number += 1
            if len(line) > MAX_LINE:
                raise NotCsv(f"line {self.number} has more than {MAX_LINE:,} characters")
            if "\0" in line:
                raise NotCsv(f"line {self.number} holds a NUL byte: this is not a text file")
            yield line if line.isascii() else self._repaired(line)

    def close(self) -> None:
        """Close the file."""
        self._text.close()

    def _repaired(self, line: str) -> str:
        line, count = _ESCAPED.subn(_windows_1252, line)
        if count:
            self._issues.add("not_utf8", self.number, count)
        return line


def _windows_1252(match: re.Match[str]) -> str:
    return bytes([ord(match[0]) - 0xDC00]).decode("cp1252", "replace")


class Layout(NamedTuple):
    """How a file is laid out: what separates the fields, and whether its first row names the columns."""

    delimiter: str
    header: bool


class Table:
    """A CSV file: `names` of its columns, then its rows, every one as long as `names`."""

    def __init__(self, file: BinaryIO, *, delimiter: str | None = None, header: bool | None = None) -> None:
        """Read the beginning of a file.

        Args:
            file: at its start; it belongs to the table now (`lines.close`).
            delimiter: instead of guessing it.
            header: instead of guessing it.

        Raises:
            NotCsv: there is nothing to read, or it is no text.
        """
        self.issues = Issues()
        self.lines = Lines(file, self.issues)
        numbered = iter(self.lines)
        sample = list(islice(numbered, _SAMPLE_LINES))
        found = guess(sample, delimiter)
        self.layout = found if header is None else found._replace(header=header)
        reader = csv.reader(chain(sample, numbered), delimiter=self.layout.delimiter, strict=True)
        self._records = _records(reader, self.issues)
        first = next(self._records, None)
        if first is None:
            raise NotCsv("the file is empty")
        if len(first) > MAX_COLUMNS:
            raise NotCsv(f"the first row has {len(first):,} fields, more than {MAX_COLUMNS:,}")
        self.names = column_names(first, header=self.layout.header)
        if not self.layout.header:
            self._records = chain([first], self._records)
        self._reader = reader

    def rows(self) -> Iterator[list[str]]:
        """Yield the rows; short ones are filled with empty fields, long ones cut, and both counted.

        Raises:
            NotCsv: the rest cannot be read.
        """
        width = len(self.names)
        for row in self._records:
            if len(row) != width:
                self.issues.add("short_rows" if len(row) < width else "long_rows", self._reader.line_num)
                row = (row + [""] * (width - len(row)))[:width]  # noqa: PLW2901 - the same row, mended
            yield row


class _Reader(Protocol):
    """What `csv.reader` returns; the class has no public name."""

    @property
    def line_num(self) -> int: ...

    def __next__(self) -> list[str]: ...


def _records(reader: _Reader, issues: Issues) -> Iterator[list[str]]:
    # In strict mode the csv module reports a broken quote, and goes on with the next line when asked again.
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise NotCsv(f"a quote opened on line {start} or after is never closed") from None
            if "field larger" in str(error):
                limit = csv.field_size_limit()
                raise NotCsv(f"a field of line {start} has over {limit:,} characters; is a quote missing?") from None
            issues.add("bad_quotes", start)
            continue
        if row:
            yield row
        else:
            issues.add("blank_lines", start)


def guess(sample: list[str], delimiter: str | None = None) -> Layout:
    """Guess the layout from the first lines.

    Every delimiter is tried: the one under which most rows are equally long wins, then the one with the
    most fields. (`csv.Sniffer` decides by regular expressions that can take quadratic time on hostile
    text, and by how often a character occurs, which can elect a letter.)
    """
    candidates = DELIMITERS if delimiter is None else delimiter
    tried = [(*_evenness(rows := _split(sample, each)), each, rows) for each in candidates]
    share, width, best, rows = max(tried, key=lambda found: found[:2])
    if share < _MOSTLY or width < 2:  # noqa: PLR2004 - one column has no delimiter
        best = delimiter or ","
        rows = _split(sample, best)
    return Layout(best, has_header(rows))


def _split(sample: list[str], delimiter: str) -> list[list[str]]:
    try:
        rows = [row for row in csv.reader(sample, delimiter=delimiter) if row]
    except csv.Error:  # told properly when the file is read
        return []
    # The last one may go on beyond the sample.
    return rows[:-1] if len(sample) == _SAMPLE_LINES else rows


def _evenness(rows: list[list[str]]) -> tuple[float, int]:
    """Return the share of rows with the most common number of fields (0 for one field), and that number."""
    widths = Counter(len(row) for row in rows)
    if not widths:
        return 0, 0
    width, count = max(widths.items(), key=lambda item: (item[1], item[0]))
    return (count / len(rows), width) if width > 1 else (0, width)


def has_header(rows: list[list[str]]) -> bool:
    """Say whether the first row names the columns.

    It does when all of its fields are text, none empty, no two alike, and none is a value further down.
    """
    if not rows:
        return False
    names = [field.strip() for field in rows[0]]
    if len(set(names)) != len(names) or not all(names):
        return False
    if any(cells.read(name).kind != "string" for name in names):
        return False
    return not any(name == field.strip() for row in rows[1:] for name, field in zip(names, row, strict=False))


def column_names(first: list[str], *, header: bool) -> list[str]:
    """Return the names of the columns: none empty, none twice, at most 100 characters (plus a number)."""
    names: list[str] = []
    seen: Counter[str] = Counter()
    for number, field in enumerate(first, 1):
        name = field.strip()[:MAX_NAME] if header else ""
        name = name or f"column {number}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names
