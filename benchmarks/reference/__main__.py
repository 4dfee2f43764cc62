"""Compare the simulator with every reference set it can reach; one line a file.

Exit status: 0 if every covered file is there and exact, 1 if not, 2 for wrong arguments. ``--strict`` also fails for
files and rows that are not covered, but not for files that are no simulator's results (shown as ``no result``), nor
for rows that are computed from rows of another file that are not there (they are counted, and named).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.reference.comparison import Comparison
from benchmarks.reference.registry import REFERENCE_SETS, ReferenceSet

DEFAULT_DATA = Path("../shared/reference")


def line(file: str, rows: str, off: str, status: str, note: str = "") -> str:
    """Return one line of the table."""
    return f"{file:36} {rows:>11}  {off:>9}  {status:12} {note}".rstrip()


def report(reference: ReferenceSet, folder: Path, strict: bool) -> tuple[list[str], bool]:
    """Return the lines to print for one file, and whether it passes."""
    missing = [file for file in (reference.file, *reference.also_reads) if not (folder / file).is_file()]
    if missing:
        passes = reference.run is None and not (strict and reference.is_simulator_set)
        return [line(reference.title, "-", "-", "MISSING", f"no such file: {', '.join(missing)}")], passes
    if not reference.is_simulator_set:
        return [line(reference.title, "-", "-", "no result", reference.note)], True
    if reference.run is None:
        return [line(reference.title, "-", "-", "not covered", reference.note)], not strict
    comparison = reference.run(folder)
    notes = [comparison.note] if comparison.note else []
    notes += [f"{count} rows not covered: {why}" for why, count in comparison.not_covered.items()]
    notes += [f"{count} rows lack their inputs here: {why}" for why, count in comparison.lacking_inputs.items()]
    lines = [
        line(reference.title, f"{comparison.matched}/{comparison.total}", f"{comparison.largest_deviation:.2g}",
             status_of(comparison), "; ".join(notes))
    ]
    lines += [f"    {mismatch}" for mismatch in comparison.mismatches]
    if comparison.total == 0:
        return lines, bool(comparison.not_covered or comparison.lacking_inputs) and not strict
    return lines, comparison.is_exact and not (strict and comparison.not_covered)


def status_of(comparison: Comparison) -> str:
    """Return a word for a comparison."""
    if comparison.total == 0:
        return "not covered" if comparison.not_covered or comparison.lacking_inputs else "NO ROWS"
    if not comparison.is_exact:
        return "MISMATCH"
    return "exact, part" if comparison.not_covered or comparison.lacking_inputs else "exact"


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reference", description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, metavar="DIR",
                        help="folder with the reference files (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="fail for what is not covered, too")
    parser.add_argument("--only", action="append", metavar="FILE",
                        choices=list(dict.fromkeys(one.file for one in REFERENCE_SETS)),
                        help="compare this file only; may be repeated")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        print(f"--data={options.data}: no such folder", file=sys.stderr)
        return 2
    print(line("file", "rows", "deviation", "status", "note"))
    everything_passes = True
    for reference in REFERENCE_SETS:
        if options.only and reference.file not in options.only:
            continue
        lines, passes = report(reference, options.data, options.strict)
        print("\n".join(lines), flush=True)
        everything_passes &= passes
    return 0 if everything_passes else 1


if __name__ == "__main__":
    sys.exit(main())
