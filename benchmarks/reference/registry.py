"""Every reference file: what runs it, or why nothing does yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bit_fusion_summary import figures as bit_fusion_summary
from benchmarks.reference import bit_fusion_simulator, bitmod, hawqv3, rtl, scalesim
from benchmarks.reference.comparison import Answer, Comparison, Row, compare, read_rows


@dataclass(frozen=True)
class ReferenceSet:
    """One file of the reference. ``run`` is None where the simulator cannot reach it yet, and ``note`` says why."""

    file: str
    run: Callable[[Path], Comparison] | None
    note: str = ""
    also_reads: tuple[str, ...] = ()


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
    ReferenceSet("bitfusion_simulator_summary.csv", _summary),
    ReferenceSet("hawqv3_ilp_optima.csv", _hawqv3, also_reads=("hawqv3_ilp_inputs.csv",)),
    ReferenceSet("bitmod_per_layer.csv", _bitmod),
    ReferenceSet("zigzag_mappings.json", None, "its counting rules are not there yet"),
    ReferenceSet("accelforge_fronts.json", None, "its counting rules are not there yet"),
    ReferenceSet("bitsim_data_dependent_cycles.csv", None, "no value-dependent processing element yet"),
    ReferenceSet("haq_mobilenetv2_latency.csv", None, "its accelerator is not described in public"),
    ReferenceSet("tpu_v4_gemm.csv", None, "measured silicon: for a correlation, not for equality"),
)
