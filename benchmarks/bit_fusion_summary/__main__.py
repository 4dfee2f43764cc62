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
import math
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.bit_fusion_summary.networks import NETWORKS
from benchmarks.bit_fusion_summary.search import best_tiling, work_of
from benchmarks.reference.comparison import Rounded, Row, Value, cell_matches, read_rows
from hw_configs import open_accelerator
from simulator.accelerator import Accelerator
from simulator.counting_rules import bit_fusion_simulator as rules
from simulator.layer import OPERANDS
from simulator.processing_elements import BitFusionElement

DEFAULT_DATA = Path("../shared/reference")
SUMMARY = "bitfusion_simulator_summary.csv"
EYERISS_CYCLES, EYERISS_ENERGY = "eyeriss_cycles_16b(168PE)", "eyeriss_nJ"
SPEED, ENERGY = "speedup_vs_eyeriss", "energy_reduction_vs_eyeriss"


def machine_of(accelerator: Accelerator) -> rules.Machine:
    """What the authors' rules need to know of a machine."""
    element = accelerator.processing_element
    assert isinstance(element, BitFusionElement)
    rows, columns = (axis.size for axis in accelerator.grid.axes)
    return rules.Machine(
        rows=rows, columns=columns, max_bits=element.max_bits, min_bits=element.min_bits,
        dram_bits_per_cycle=accelerator.dram.bandwidth_bits_per_cycle,
        buffer_bits={operand: accelerator.buffers_of(operand)[-1].size_bits for operand in OPERANDS},
    )


def energies_of(accelerator: Accelerator) -> rules.EnergyTable:
    """The energies of a machine that their rules count."""
    dram = accelerator.dram
    assert dram.read_energy_pj_per_bit == dram.write_energy_pj_per_bit
    buffers = {operand: accelerator.buffers_of(operand)[-1] for operand in OPERANDS}
    return rules.EnergyTable(
        core_pj_per_cycle=accelerator.grid.pe_count * accelerator.processing_element.energy_pj_per_cycle,
        buffer_read_pj_per_bit={operand: buffer.read_energy_pj_per_bit for operand, buffer in buffers.items()},
        buffer_write_pj_per_bit={operand: buffer.write_energy_pj_per_bit for operand, buffer in buffers.items()},
        dram_pj_per_bit=dram.read_energy_pj_per_bit,
    )


def network_figures(accelerator: Accelerator, network: str, batch: int) -> dict[str, Value]:
    """Cost of one network: the summary's columns but those about Eyeriss.

    Raises ``MappingError`` where a layer fits in no way.
    """
    machine, energy = machine_of(accelerator), energies_of(accelerator)
    known: dict[object, rules.Counts] = {}
    for shape in NETWORKS[network]:
        if shape not in known:
            known[shape] = rules.count(machine, work_of(shape), best_tiling(machine, energy, shape, batch))
    counts = [known[shape] for shape in NETWORKS[network]]
    cycles, total_nj = sum(each.total_cycles for each in counts), math.fsum(map(energy.total_pj, counts)) / 1e3
    return {
        "cycles": cycles,
        "mem_stall_cycles": sum(each.stall_cycles for each in counts),
        "macs_total": batch * sum(shape.macs for shape in NETWORKS[network]),
        "core_nJ": Rounded(math.fsum(map(energy.core_pj, counts)) / 1e3, 1),
        "sram_nJ": Rounded(math.fsum(map(energy.buffers_pj, counts)) / 1e3, 1),
        "dram_nJ": Rounded(math.fsum(map(energy.dram_pj, counts)) / 1e3, 1),
        "total_nJ": Rounded(total_nj, 1),
        "ms_per_image": cycles / batch / (accelerator.clock_mhz * 1e3),
        "uJ_per_image": total_nj / batch / 1e3,
    }


def _value(value: Value) -> float:
    number = value.value if isinstance(value, Rounded) else value
    assert isinstance(number, int | float)
    return float(number)


def _wrong(figures: Mapping[str, Value], row: Row) -> list[str]:
    return [
        f"{column}: ours {ours}, theirs {row.get(column)}" for column, ours in figures.items()
        if not cell_matches(ours, row.get(column, "(no such column)"))
    ]


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
    accelerator = open_accelerator("bit_fusion")
    ratios: dict[str, list[float]] = {SPEED: [], ENERGY: []}
    everything = True
    print(f"{'network':10} {'cycles':>11} {'energy (mJ)':>12} {'x faster':>9} {'x less energy':>14}  against the file")
    for row in sorted(read_rows(path), key=lambda row: row["net"] == "geomean"):
        figures: dict[str, Value] = {}
        cells = " " * 24
        if row["net"] == "geomean":
            means = {name: math.exp(math.fsum(map(math.log, found)) / len(found)) for name, found in ratios.items()}
        elif row["net"] in NETWORKS:
            figures = network_figures(accelerator, row["net"], int(row["batch"]))
            means = {
                SPEED: int(row[EYERISS_CYCLES]) / _value(figures["cycles"]),
                ENERGY: float(row[EYERISS_ENERGY]) / _value(figures["total_nJ"]),
            }
            for name, ratio in means.items():
                ratios[name].append(ratio)
            cells = f"{_value(figures['cycles']):11,.0f} {_value(figures['total_nJ']) * 1e-6:12.3f}"
        else:
            print(f"{row['net']:10} no such network here")
            everything = False
            continue
        wrong = _wrong({**figures, **{name: Rounded(ratio, 3) for name, ratio in means.items()}}, row)
        everything &= not wrong
        print(f"{row['net']:10} {cells} {means[SPEED]:9.3f} {means[ENERGY]:14.3f}  {'; '.join(wrong) or 'exact'}",
              flush=True)
    return 0 if everything else 1


if __name__ == "__main__":
    sys.exit(main())
