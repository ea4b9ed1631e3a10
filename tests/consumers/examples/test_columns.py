from __future__ import annotations

import statistics
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.examples.columns import MAX_DISTINCT, MAX_SAMPLE, Column, ColumnStats, Frequent, Numbers

numbers = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=200)


def described(*cells: object) -> Column:
    stats = ColumnStats("x")
    for cell in cells:
        stats.add(str(cell))
    return stats.describe()


@pytest.mark.parametrize(
    ("cells", "kind", "mismatched"),
    [
        (["1", "2"], "integer", 0),
        (["1", "2.5"], "number", 0),
        (["true", "No"], "boolean", 0),
        (["2020-01-01"], "date", 0),
        (["2020-01-01", "2020-01-01T10:00"], "datetime", 0),
        (["a", "1"], "string", 0),
        (["1"] * 9 + ["n/a"], "integer", 1),
        (["1"] * 8 + ["n/a"], "string", 0),
        (["1"] * 99 + ["00501"], "string", 0),
        (["", " "], "empty", 0),
        ([], "empty", 0),
    ],
)
def test_types(cells: list[str], kind: str, mismatched: int) -> None:
    column = described(*cells)
    assert (column.type, column.mismatched) == (kind, mismatched)


def test_known_numbers() -> None:
    column = described(2, 4, 4, 4, 5, 5, 7, 9, "", " ")
    assert (column.count, column.empty, column.distinct) == (8, 2, 5)
    assert (column.min, column.max, column.mean) == (2, 9, 5)
    assert column.stddev == pytest.approx(2.138089935)
    assert column.histogram is not None
    assert column.histogram.counts == [1, 0, 3, 2, 0, 1, 0, 1]


def test_known_dates() -> None:
    column = described("2020-03-01", "2020-01-01", "2020-12-31")
    assert (column.min, column.max, column.mean) == ("2020-01-01", "2020-12-31", None)
    assert column.histogram is not None
    assert (column.histogram.low, sum(column.histogram.counts)) == ("2020-01-01", 3)


def test_known_texts() -> None:
    column = described("b", "a", "b", "c", "b", "a")
    assert [(top.value, top.count) for top in column.top] == [("b", 3), ("a", 2), ("c", 1)]
    assert (column.distinct, column.top_approximate) == (3, False)


def test_known_booleans() -> None:
    assert described("yes", "no", "true").true == 2


def test_one_value_has_no_deviation_and_one_bin() -> None:
    column = described("1.5", "1.5")
    assert column.histogram is not None
    assert column.histogram.counts == [2]
    assert described("3").stddev is None


def test_numbers_too_large_for_their_squares_leave_the_report_valid() -> None:
    column = described("1e308", "-1e308", "1e308")
    assert (column.min, column.max, column.stddev, column.histogram) == (-1e308, 1e308, None, None)
    assert msgspec.json.decode(msgspec.json.encode(column))["max"] == 1e308


@given(numbers)
def test_moments_are_those_of_the_statistics_module(values: list[float]) -> None:
    found = Numbers()
    for value in values:
        found.add(value)
    assert found.mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-6)
    assert found.stddev == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-6)
    assert (found.low, found.high) == (min(values), max(values))


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=300))
def test_bins_hold_every_value(values: list[int]) -> None:
    column = described(*values)
    assert column.type == "integer"
    assert column.histogram is not None
    assert sum(column.histogram.counts) == len(values)
    assert len(column.histogram.counts) == min(12, max(values) - min(values) + 1)


@given(st.lists(st.sampled_from(["a", "b", "c", "", "long" * 30]), max_size=100))
def test_counts_of_texts_are_exact_while_there_are_few(values: list[str]) -> None:
    column = described("text", *values)
    expected = Counter(value[:64] for value in ["text", *values] if value)
    assert {top.value: top.count for top in column.top} == dict(expected.most_common(5))
    assert column.empty == values.count("")


@given(st.lists(st.integers(0, 30), max_size=400))
def test_frequent_values_survive_few_counters(values: list[int]) -> None:
    frequent, counters = Frequent(counters=5), 5
    for value in values:
        frequent.add(str(value))
    kept = {top.value: top.count for top in frequent.top(counters)}
    for text, count in Counter(map(str, values)).items():
        lower = kept.get(text, 0)
        assert lower <= count <= lower + len(values) / (counters + 1)  # the bound of Misra and Gries


def test_a_long_column_is_sampled_evenly_and_says_so() -> None:
    column = described(*range(60_000))
    assert column.distinct == MAX_DISTINCT
    assert column.distinct_capped
    assert column.histogram is not None
    assert column.histogram.sampled
    assert sum(column.histogram.counts) == pytest.approx(60_000, abs=12)
    assert all(count == pytest.approx(5000, rel=0.2) for count in column.histogram.counts)


def test_memory_does_not_grow_with_the_column() -> None:
    stats = ColumnStats("x")
    for number in range(20_000):
        stats.add(f"{number} {'x' * 100}")
    assert len(stats._hashes) == MAX_DISTINCT
    assert len(stats._frequent._counts) <= 500
    assert stats.describe().top_approximate
    many = Numbers()
    for number in range(20_000):
        many.add(number)
    assert len(many._sample) == MAX_SAMPLE
