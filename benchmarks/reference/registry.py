"""Every reference file: what runs it, or why nothing does yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bit_fusion_summary import figures as bit_fusion_summary
from benchmarks.reference import (
    accelforge,
    accelforge_search,
    bit_fusion_search,
    bit_fusion_simulator,
    bitmod,
    bitsim,
    hawqv3,
    rtl,
    scalesim,
    zigzag,
    zigzag_search,
)
from benchmarks.reference.comparison import Answer, Comparison, Row, compare, read_rows


@dataclass(frozen=True)
class ReferenceSet:
    """One file of the reference. ``run`` is None where nothing compares it, and ``note`` says why.

    ``is_simulator_set`` is False for a file that holds no other simulator's results, so that there is nothing to be
    equal to: measurements, and tables of inputs. ``also_reads`` are further files beside it. ``what`` tells sets
    of the same file apart.
    """

    file: str
    run: Callable[[Path], Comparison] | None
    note: str = ""
    also_reads: tuple[str, ...] = ()
    is_simulator_set: bool = True
    what: str = ""

    @property
    def title(self) -> str:
        """How the set is called in tables: its file, and what of it, where it is compared in several ways."""
        return f"{self.file} {self.what}".strip()


def _rows(file: str, evaluate: Callable[[Row], Answer], note: str = "") -> ReferenceSet:
    """Return a set whose rows are evaluated one by one."""
    return ReferenceSet(file, lambda folder: compare(read_rows(folder / file), evaluate, note), note)


def _summary(folder: Path) -> Comparison:
    table = read_rows(folder / "bitfusion_simulator_summary.csv")
    return compare(table, bit_fusion_summary.evaluate(table), "from the preset, with a search of our own")


def _hawqv3(folder: Path) -> Comparison:
    inputs = read_rows(folder / "hawqv3_ilp_inputs.csv")
    return compare(read_rows(folder / "hawqv3_ilp_optima.csv"), hawqv3.optimum(inputs), "each optimum proven")


def _bitmod(folder: Path) -> Comparison:
    table = read_rows(folder / "bitmod_per_layer.csv")
    return compare(table, bitmod.evaluate(table))


def _bitsim(folder: Path) -> Comparison:
    rows = read_rows(folder / "bitsim_data_dependent_cycles.csv")
    return compare(rows, bitsim.evaluate(folder), "BitWave: the sign's column counted, less one column a step")


REFERENCE_SETS: tuple[ReferenceSet, ...] = (
    _rows("scalesim_compute.csv", scalesim.evaluate, "os: its OFMAP writes include rows + columns a fold"),
    _rows("rtl_bitfusion_array.csv", rtl.bit_fusion_array),
    _rows("rtl_fused_mac.csv", rtl.fused_mac),
    _rows("rtl_serial_1d.csv", rtl.serial_weights),
    _rows("rtl_serial_2d.csv", rtl.serial_both),
    _rows("rtl_stripes_16_lanes.csv", rtl.stripes_lanes),
    _rows("rtl_systolic_fold.csv", rtl.systolic_fold),
    _rows("bitfusion_simulator_mappings.csv", bit_fusion_simulator.mapping),
    _rows("bitfusion_simulator_grid.csv", bit_fusion_simulator.best_tiling),
    ReferenceSet(bit_fusion_search.GRID, bit_fusion_search.run, what="search"),
    ReferenceSet("bitfusion_simulator_summary.csv", _summary),
    ReferenceSet("hawqv3_ilp_optima.csv", _hawqv3, also_reads=("hawqv3_ilp_inputs.csv",)),
    ReferenceSet("bitmod_per_layer.csv", _bitmod),
    ReferenceSet(zigzag.MAPPINGS, zigzag.run, also_reads=(f"{zigzag.INPUTS}/layers.yaml",)),
    ReferenceSet(zigzag.MAPPINGS, zigzag_search.run, also_reads=(f"{zigzag.INPUTS}/layers.yaml",), what="search"),
    ReferenceSet(accelforge.FRONTS, accelforge.run, also_reads=(f"{accelforge.INPUTS}/arch_A.yaml",)),
    ReferenceSet(accelforge.FRONTS, accelforge_search.run, also_reads=(f"{accelforge.INPUTS}/arch_A.yaml",),
                 what="search"),
    ReferenceSet("bitsim_data_dependent_cycles.csv", _bitsim, also_reads=("bitsim_weights.npz",)),
    ReferenceSet("haq_mobilenetv2_latency.csv", None, "inputs: latencies of an accelerator not described in public",
                 is_simulator_set=False),
    ReferenceSet("tpu_v4_gemm.csv", None, "measured silicon: plot and correlation by python -m benchmarks.tpu_v4",
                 is_simulator_set=False),
)
