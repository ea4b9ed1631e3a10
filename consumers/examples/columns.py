"""Statistics of one column in one pass and bounded memory. Pure.

Exact: counts, minimum, maximum, and mean and standard deviation (Welford's method: D. Knuth, The Art of
Computer Programming, volume 2, section 4.2.2). Bounded: distinct values are counted up to 2,000 (by their
64-bit hashes); frequent values by Misra and Gries's method with 500 counters, which is exact up to 500
distinct values and a lower bound beyond; the histogram comes from a uniform sample of 5,000 values (Vitter's
algorithm R, fixed seed, so the same file gives the same report), exact for shorter columns.
"""

from __future__ import annotations

import math
import random
from array import array
from collections import Counter
from typing import Literal

import msgspec

from consumers.examples import cells

MAX_DISTINCT = 2000
MAX_COUNTERS = 500
MAX_SAMPLE = 5000
BINS = 12
TOP = 5
_CUT = 64  # characters of a text that are kept
# A column is of a type although a few cells are not ("n/a", "unknown"): those are reported as `mismatched`.
_DOMINANT = 0.9

Type = Literal["integer", "number", "boolean", "date", "datetime", "string", "empty"]


class Histogram(msgspec.Struct, frozen=True, rename={"low": "from", "high": "to"}):
    """Counts of equally wide bins from `low` to `high`; `sampled`: scaled up from a sample."""

    low: float | str
    high: float | str
    counts: list[int]
    sampled: bool = False


class TopValue(msgspec.Struct, frozen=True):
    """A frequent text, cut to 64 characters, and how often it occurs."""

    value: str
    count: int


class Column(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The description of a column.

    Attributes:
        count: cells that are not empty.
        distinct: different values; `distinct_capped`: there are more.
        mismatched: cells that are not of the column's type; they are in no statistic.
        min: least value; a text for dates and times. `max` likewise.
        stddev: of the sample (divisor n - 1).
        true: how many booleans are true.
        top_approximate: the counts in `top` are lower bounds.
    """

    name: str
    type: Type
    count: int
    empty: int = 0
    distinct: int
    distinct_capped: bool = False
    mismatched: int = 0
    min: float | str | None = None
    max: float | str | None = None
    mean: float | None = None
    stddev: float | None = None
    true: int | None = None
    top: list[TopValue] = []
    top_approximate: bool = False
    histogram: Histogram | None = None


class Numbers:
    """Moments, extremes and a sample of a stream of numbers."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0
        self.low: float = 0
        self.high: float = 0
        self.low_text = self.high_text = ""
        self._sample = array("d")
        self._random = random.Random(0)  # noqa: S311 - picks a sample, guards nothing

    def add(self, value: float, text: str = "") -> None:
        """Count one value; `text` is how the file spells it."""
        self.count += 1
        delta = value - self.mean
        self.mean += delta / self.count
        self._squares += delta * (value - self.mean)
        if self.count == 1 or value < self.low:
            self.low, self.low_text = value, text
        if self.count == 1 or value > self.high:
            self.high, self.high_text = value, text
        if len(self._sample) < MAX_SAMPLE:
            self._sample.append(value)
        elif (place := int(self._random.random() * self.count)) < MAX_SAMPLE:
            self._sample[place] = value

    @property
    def stddev(self) -> float | None:
        """The sample's standard deviation; None for fewer than two values."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else None

    def bins(self, most: int = BINS) -> list[int]:
        """Return the counts of at most `most` equally wide bins between the extremes."""
        width = (self.high - self.low) / most
        if not 0 < width < math.inf:
            return [self.count] if self.count and width == 0 else []
        counts = [0] * most
        for value in self._sample:
            counts[min(most - 1, int((value - self.low) / width))] += 1
        return [round(each * self.count / len(self._sample)) for each in counts]

    @property
    def sampled(self) -> bool:
        """Whether `bins` are scaled up from a sample."""
        return self.count > len(self._sample)


class Frequent:
    """The frequent values of a stream (Misra and Gries, 1982)."""

    def __init__(self, counters: int = MAX_COUNTERS) -> None:
        self._counters = counters
        self._counts: dict[str, int] = {}
        self.approximate = False

    def add(self, value: str) -> None:
        """Count one value."""
        if value in self._counts or len(self._counts) < self._counters:
            self._counts[value] = self._counts.get(value, 0) + 1
            return
        self.approximate = True
        # Takes one from every counter, so it happens at most once in `counters` values: constant on average.
        self._counts = {known: count - 1 for known, count in self._counts.items() if count > 1}

    def top(self, most: int = TOP) -> list[TopValue]:
        """Return the most frequent, the first seen first among equals."""
        ranked = sorted(self._counts.items(), key=lambda item: -item[1])
        return [TopValue(value, count) for value, count in ranked[:most]]


class ColumnStats:
    """Everything about one column, cell by cell."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._kinds: Counter[cells.Kind] = Counter()
        self._empty = 0
        self._true = 0
        self._hashes: set[int] = set()
        self._capped = False
        self._numbers = Numbers()
        self._moments = Numbers()
        self._frequent = Frequent()

    def add(self, text: str) -> None:
        """Count one cell; the spaces around it do not matter."""
        text = text.strip()
        if not text:
            self._empty += 1
            return
        kind, value = cells.read(text)
        self._kinds[kind] += 1
        self._remember(text)
        if kind in ("integer", "number"):
            self._numbers.add(value)
        elif kind in ("date", "datetime"):
            self._moments.add(value, text)
        elif kind == "boolean":
            self._true += int(value)

    def _remember(self, text: str) -> None:
        self._frequent.add(text[:_CUT])
        mark = hash(text)
        if mark in self._hashes:
            return
        if len(self._hashes) < MAX_DISTINCT:
            self._hashes.add(mark)
        else:
            self._capped = True

    def describe(self) -> Column:
        """Return what is known so far."""
        total = self._kinds.total()
        kind, matching = column_type(self._kinds)
        base = Column(
            name=self.name,
            type=kind,
            count=total,
            empty=self._empty,
            distinct=len(self._hashes),
            distinct_capped=self._capped,
            mismatched=total - matching,
        )
        if kind in ("integer", "number"):
            return self._with_numbers(base)
        if kind in ("date", "datetime"):
            return self._with_moments(base)
        if kind == "boolean":
            return msgspec.structs.replace(base, true=self._true)
        return msgspec.structs.replace(base, top=self._frequent.top(), top_approximate=self._frequent.approximate)

    def _with_numbers(self, base: Column) -> Column:
        numbers = self._numbers
        # Whole numbers with few values get one bin a value.
        span = numbers.high - numbers.low + 1 if base.type == "integer" else BINS
        bins = numbers.bins(int(min(BINS, span)))
        return msgspec.structs.replace(
            base,
            min=numbers.low,
            max=numbers.high,
            mean=_short(numbers.mean),
            stddev=_short(numbers.stddev),
            histogram=Histogram(numbers.low, numbers.high, bins, numbers.sampled) if bins else None,
        )

    def _with_moments(self, base: Column) -> Column:
        low, high = self._moments.low_text, self._moments.high_text
        histogram = Histogram(low, high, self._moments.bins(), self._moments.sampled)
        return msgspec.structs.replace(base, min=low, max=high, histogram=histogram)


def column_type(kinds: Counter[cells.Kind]) -> tuple[Type, int]:
    """Return the type of a column and how many of its cells are of it.

    The narrowest type that all cells share; else one that at least nine in ten share; else string. A single
    code (`cells.Cell`) makes a string: among postcodes most look like numbers.
    """
    total = kinds.total()
    if total == 0:
        return "empty", 0
    if kinds["code"]:
        return "string", total
    numbers = kinds["integer"] + kinds["number"]
    moments = kinds["date"] + kinds["datetime"]
    families: list[tuple[Type, int]] = [
        ("number" if kinds["number"] else "integer", numbers),
        ("datetime" if kinds["datetime"] else "date", moments),
        ("boolean", kinds["boolean"]),
    ]
    best = max(families, key=lambda family: family[1])
    return best if best[1] >= _DOMINANT * total else ("string", total)


def _short(value: float | None) -> float | None:
    """Return ten significant digits, so that the report stays small; None for what JSON cannot say."""
    return float(f"{value:.10g}") if value is not None and math.isfinite(value) else None
