"""Bit Fusion against Eyeriss, network by network: the authors' summary, from the preset.

    python -m benchmarks.bit_fusion_summary [--data DIR]

Array, buffers, bandwidth and energies are those of the preset ``bit_fusion``; shapes and precisions are the authors'
(``networks``), batch 16; tilings are searched as they search (``search``); cycles and bits are counted by their own
rules (``simulator.counting_rules.bit_fusion_simulator``), which know neither leakage nor conversions nor vector
operations. Eyeriss's cycles and energy are read from the reference file, whose every figure is compared.

Exit status 0 if all are equal, to the digits that the file gives; 1 if not; 2 where the file is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.bit_fusion_summary.figures import ENERGY, SPEED, evaluate, number
from benchmarks.reference.comparison import NotCovered, Row, Value, cell_matches, read_rows

DEFAULT_DATA = Path("../shared/reference")
SUMMARY = "bitfusion_simulator_summary.csv"


def _wrong(figures: Mapping[str, Value], row: Row) -> list[str]:
    return [
        f"{column}: ours {ours}, theirs {row.get(column)}" for column, ours in figures.items()
        if not cell_matches(ours, row.get(column, "(no such column)"))
    ]


def _cells(figures: Mapping[str, Value]) -> str:
    cost = " " * 24
    if "cycles" in figures:
        cost = f"{number(figures['cycles']):11,.0f} {number(figures['total_nJ']) * 1e-6:12.3f}"
    return f"{cost} {number(figures[SPEED]):9.3f} {number(figures[ENERGY]):14.3f}"


def main(arguments: list[str] | None = None) -> int:
    """Print the summary and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bit_fusion_summary", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, metavar="DIR",
                        help="folder with the reference files (default: %(default)s)")
    path = parser.parse_args(arguments).data / SUMMARY
    if not path.is_file():
        print(f"--data: no such file: {path}", file=sys.stderr)
        return 2
    table = read_rows(path)
    answer = evaluate(table)
    everything = bool(table)
    print(f"{'network':10} {'cycles':>11} {'energy (mJ)':>12} {'x faster':>9} {'x less energy':>14}  against the file")
    for row in table:
        figures = answer(row)
        if isinstance(figures, NotCovered):
            print(f"{row['net']:10} {figures.reason}")
            everything = False
            continue
        wrong = _wrong(figures, row)
        everything &= not wrong
        print(f"{row['net']:10} {_cells(figures)}  {'; '.join(wrong) or 'exact'}", flush=True)
    return 0 if everything else 1


if __name__ == "__main__":
    sys.exit(main())
