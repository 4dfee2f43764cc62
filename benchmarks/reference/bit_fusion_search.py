"""The Bit Fusion authors' search against ours: the same optimum in their space, and what lies beyond it.

Where tilings tie in cycles and the machine's energies are not known, the paper's decide: cycles do not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.reference.bit_fusion_simulator import energy_is_known, machine_of, work_of
from benchmarks.reference.comparison import Answer, Comparison, Row, compare, read_rows
from mapper.bit_fusion_search import BestTiling, best_tiling
from simulator.counting_rules import bit_fusion_simulator as rules

GRID = "bitfusion_simulator_grid.csv"
# What of a row decides its optimum.
INPUTS = ("N", "M", "pmax", "pmin", "bw_bits_per_cycle", "wbuf_bytes", "ibuf_bytes", "obuf_bytes", "batch", "K", "O",
          "stride", "IC", "OC", "abits", "wbits", "im2col")


def extents_of(row: Row) -> dict[rules.Loop, int]:
    """Extents of the five loops of a row's layer."""
    output = int(row["O"])
    return {"B": int(row["batch"]), "OW": output, "OH": output, "IC": int(row["IC"]), "OC": int(row["OC"])}


@dataclass
class _Network:
    """Cycles of all rows of a network: theirs, and of the best tilings beyond their space."""

    theirs: int = 0
    ours: int = 0


def run(folder: Path) -> Comparison:
    """Search every row in both spaces; equal rows once."""
    # Have Numba compile the kernel, or load it, before a search is timed.
    small = rules.Machine(1, 1, 8, 2, 64, rules.PAPER_BUFFER_BITS)
    best_tiling(small, rules.Work(1, 1, 8, 8, False), dict.fromkeys(rules.LOOPS, 1), rules.PAPER_ENERGY)
    known: dict[tuple[str, ...], tuple[BestTiling, BestTiling]] = {}
    networks: dict[str, _Network] = {}
    better = 0

    def evaluate(row: Row) -> Answer:
        nonlocal better
        key = tuple(row[column] for column in INPUTS)
        machine = machine_of(row)
        if key not in known:
            restricted, free = (
                best_tiling(machine, work_of(row), extents_of(row), rules.PAPER_ENERGY, space)
                for space in ("powers_of_two", "every_split")
            )
            known[key] = restricted, free
        restricted, free = known[key]
        network = networks.setdefault(row["net"], _Network())
        network.theirs += int(row["total_cycles"])
        network.ours += free.counts.total_cycles
        better += free.counts.total_cycles < int(row["total_cycles"])
        return {
            "total_cycles": restricted.counts.total_cycles,
            "dyn_energy_nJ": restricted.energy_pj / 1e3 if energy_is_known(machine) else None,
            "every split": int(free.counts.total_cycles <= int(row["total_cycles"])),
        }

    comparison = compare([{**row, "every split": "1"} for row in read_rows(folder / GRID)], evaluate)
    gains = ", ".join(f"{name} {1 - each.ours / each.theirs:.1%}" for name, each in networks.items() if each.theirs)
    seconds = sum(found.cpu_seconds for both in known.values() for found in both)
    return replace(comparison, note=(
        f"same optima in their space; every split of the loops: {better} rows better, none worse where exact, cycles "
        f"saved: {gains}; {seconds:.1f} CPU s for {2 * len(known)} searches"
    ))
