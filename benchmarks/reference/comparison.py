"""Comparing answers with a reference file, row by row, column by column, without mercy.

A row matches if *all* compared columns do. A cell that is missing, blank or not finite where we have an answer, or
filled where we have none, does not match; neither does a row that cannot be evaluated. No row is left out silently.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from simulator.errors import BitmosaicError

FLOAT_TOLERANCE = 1e-9
MISMATCHES_KEPT = 5
SURPLUS = "(surplus cells)"

Row = Mapping[str, str]


@dataclass(frozen=True)
class Rounded:
    """An answer that the reference prints with so many decimals: half of the last one is no deviation."""

    value: float
    decimals: int


@dataclass(frozen=True)
class NotCovered:
    """A row that cannot be evaluated, and why.

    ``lacks_inputs``: nothing is missing in what evaluates it; the folder does not hold what the row is computed from.
    """

    reason: str
    lacks_inputs: bool = False


Value = int | float | str | Rounded | None
Answer = Mapping[str, Value] | NotCovered


@dataclass(frozen=True)
class Comparison:
    """How one file compares.

    Attributes:
        matched, total: rows that match in all columns, rows that were compared.
        largest_deviation: largest |ours − theirs| / |theirs| over all compared cells; inf where one is missing.
        mismatches: the first few, in words.
        not_covered: rows that were not compared, by reason. lacking_inputs: those whose inputs are not there.
        note: what the reader should know.
    """

    matched: int
    total: int
    largest_deviation: float
    mismatches: tuple[str, ...]
    not_covered: Mapping[str, int]
    note: str = ""
    lacking_inputs: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_exact(self) -> bool:
        """Whether rows were compared and all of them match."""
        return self.total > 0 and self.matched == self.total


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file. Cells that a row lacks are blank; those it has too many stand under ``SURPLUS``."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, restkey=SURPLUS, restval=""))


def deviation(ours: Value, theirs: str) -> float:
    """Relative deviation of one cell: 0 if it matches, inf where there is nothing to divide by."""
    if ours is None or isinstance(ours, str):
        return 0.0 if theirs == (ours or "") else math.inf
    try:
        expected = Fraction(theirs)
    except (ValueError, ZeroDivisionError):
        return math.inf
    value = ours.value if isinstance(ours, Rounded) else ours
    if not math.isfinite(value):
        return math.inf
    off = abs(Fraction(value) - expected)
    if isinstance(ours, Rounded) and off <= Fraction(1, 2 * 10**ours.decimals) * (1 + Fraction(1, 10**6)):
        return 0.0
    if off == 0:
        return 0.0
    return float(off / abs(expected)) if expected else math.inf


def cell_matches(ours: Value, theirs: str) -> bool:
    """Whether a cell is equal: integers and texts exactly, floats (to the printed decimals) within the tolerance."""
    return deviation(ours, theirs) <= (FLOAT_TOLERANCE if isinstance(ours, float | Rounded) else 0.0)


def compare(rows: Sequence[Row], evaluate: Callable[[Row], Answer], note: str = "") -> Comparison:
    """Evaluate every row and compare what comes back, column by column."""
    matched = total = 0
    largest = 0.0
    mismatches: list[str] = []
    not_covered: dict[str, int] = {}
    lacking_inputs: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        try:
            if SURPLUS in row:
                raise ValueError("more cells than columns")
            answer = evaluate(row)
        except (BitmosaicError, KeyError, ValueError, ZeroDivisionError) as error:
            total, largest = total + 1, math.inf
            mismatches.append(f"line {number}: cannot be evaluated: {type(error).__name__}: {error}")
            continue
        if isinstance(answer, NotCovered):
            reasons = lacking_inputs if answer.lacks_inputs else not_covered
            reasons[answer.reason] = reasons.get(answer.reason, 0) + 1
            continue
        total += 1
        wrong = []
        for column, ours in answer.items():
            theirs = row.get(column, "(no such column)")
            largest = max(largest, deviation(ours, theirs))
            if not cell_matches(ours, theirs):
                wrong.append(f"{column}: ours {ours}, theirs {theirs!r}")
        matched += not wrong
        if wrong:
            mismatches.append(f"line {number}: " + "; ".join(wrong))
    return Comparison(matched, total, largest, tuple(mismatches[:MISMATCHES_KEPT]), not_covered, note,
                      lacking_inputs)
