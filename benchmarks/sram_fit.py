"""The 45 nm SRAM fit against CACTI's values: coefficients fitted anew, and what the table's law misses.

    python -m benchmarks.sram_fit [--data DIR]

Least squares in logarithms over one-bank, one-port memories within the sizes that the table states. Exit status 0 if no
value lies further off than the table's ``largest_residual``, 1 if one does, 2 where the file is missing.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

from hw_configs import open_technology
from hw_configs.technology_tables import PowerLaw

DEFAULT_DATA = Path("../shared/reference")
FILE = "cacti_sram_45nm_hwcomponents.csv"
# Quantity of the table, column of the file, factor from its unit to the table's, whether the width counts.
QUANTITIES = (
    ("read_energy_pj_per_bit", "read_pJ_per_bit", 1.0, True),
    ("write_energy_pj_per_bit", "write_pJ_per_bit", 1.0, True),
    ("area_um2", "area_mm2", 1e6, False),
    ("leakage_mw", "leak_mW", 1.0, False),
)


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sram_fit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, metavar="DIR",
                        help="folder with the reference files (default: %(default)s)")
    path = parser.parse_args(arguments).data / FILE
    if not path.is_file():
        print(f"--data: no such file: {path}", file=sys.stderr)
        return 2
    node = open_technology("45nm")
    fit = node.sram_fit
    assert fit is not None
    with path.open(encoding="utf-8", newline="") as file:
        rows = [
            row for row in csv.DictReader(file)
            if row["tech_node_nm"] == "45"
            and fit.smallest_kib * 1024 <= int(row["size_bytes"]) <= fit.largest_kib * 1024
        ]
    sizes = np.array([int(row["size_bytes"]) for row in rows])
    widths = np.array([int(row["width_bits"]) for row in rows])
    print(f"{len(rows)} memories; residuals in %")
    print(f"{'quantity':24} {'at 1 KiB':>10} {'size^':>7} {'width^':>7}  {'rms':>5} {'largest':>8}  table: largest")
    everything = True
    for name, column, factor, has_width in QUANTITIES:
        values = factor * np.array([float(row[column]) for row in rows])
        parts = [np.ones(len(rows)), np.log(sizes / 1024), *([np.log(widths / 64)] if has_width else [])]
        solved = np.linalg.lstsq(np.column_stack(parts), np.log(values), rcond=None)[0]
        law: PowerLaw = getattr(fit, name)
        by_table = np.array([
            node.sram(name, 8 * int(size), int(width))  # type: ignore[arg-type]
            for size, width in zip(sizes, widths, strict=True)
        ])
        residuals = np.abs(by_table / values - 1)
        ok = residuals.max() <= law.largest_residual
        everything &= bool(ok)
        exponents = [solved[1], solved[2] if has_width else 0.0]
        print(f"{name:24} {np.exp(solved[0]):10.4g} {exponents[0]:7.3f} {exponents[1]:7.3f}  "
              f"{100 * np.sqrt(np.mean(residuals**2)):5.1f} {100 * residuals.max():8.1f}  "
              f"{100 * law.largest_residual:.0f} {'ok' if ok else 'EXCEEDED'}")
    return 0 if everything else 1


if __name__ == "__main__":
    sys.exit(main())
