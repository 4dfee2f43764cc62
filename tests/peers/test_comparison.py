"""The comparison itself must not flatter: what counts as equal, and what does not."""

import math

import pytest

from benchmarks.reference.comparison import NotCovered, Rounded, cell_matches, compare, deviation


@pytest.mark.parametrize(
    ("ours", "theirs", "equal"),
    [
        (5, "5", True), (5, "5.0", True), (5, "6", False), (5, "", False), (5, "nan", False), (5, "inf", False),
        (10**18 + 1, str(10**18), False),
        (1.0, "1.0000000001", True), (1.0, "1.00000001", False), (0.0, "1e-30", False), (math.nan, "1", False),
        (math.inf, "inf", False),
        (Rounded(1.234, 1), "1.2", True), (Rounded(1.251, 1), "1.2", False), (Rounded(1.25, 1), "1.2", True),
        (None, "", True), (None, "0", False),
        ("8884", "8884", True), ("8884", "8848", False),
    ],
)
def test_cells(ours, theirs, equal):
    assert cell_matches(ours, theirs) is equal


def test_deviation_is_relative_and_infinite_where_there_is_nothing_to_compare():
    assert deviation(11, "10") == pytest.approx(0.1)
    assert deviation(1, "0") == math.inf
    assert deviation(1, "") == math.inf
    assert deviation(Rounded(2.0, 1), "1.0") == pytest.approx(1.0)


def test_every_row_is_accounted_for():
    def evaluate(row):
        if row["a"] == "skip":
            return NotCovered("told to")
        return {"a": 1}

    rows = [{"a": "1"}, {"a": "2"}, {"a": "skip"}, {"b": "1"}, {"a": "1"}]
    comparison = compare(rows, evaluate)
    assert (comparison.matched, comparison.total, dict(comparison.not_covered)) == (2, 4, {"told to": 1})
    assert comparison.largest_deviation == math.inf
    assert not comparison.is_exact
    assert not compare([], evaluate).is_exact
