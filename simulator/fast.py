"""The ``fast`` engine: exact cycles by jumping from event to event, inside Numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.counts import DramTraffic, energy_pj, traffic_rows
from simulator.kernels import transfers as kernel
from simulator.kernels import walk
from simulator.plan import Plan
from simulator.result import STALL_CAUSES, LayerResult, Stall
from simulator.walk_input import walk_input


def simulate_fast(plan: Plan) -> LayerResult:
    """Run a plan. Cycles and DRAM traffic come from the walk, the grid's traffic from closed forms."""
    counts, stalls = walk(walk_input(plan))
    dram = DramTraffic(
        weight_read_bits=int(counts[kernel.WEIGHT_READ]),
        input_read_bits=int(counts[kernel.INPUT_READ]),
        sum_read_bits=int(counts[kernel.SUM_READ]),
        final_write_bits=int(counts[kernel.FINAL_WRITE]),
        sum_write_bits=int(counts[kernel.SUM_WRITE]),
        parameter_read_bits=int(counts[kernel.PARAMETER_READ]),
    )
    rows = traffic_rows(plan, dram)
    active = plan.active_pe_steps * plan.step_cycles
    total = int(counts[kernel.TOTAL])
    return LayerResult(
        engine="fast",
        layer=plan.layer.name,
        total_cycles=total,
        compute_cycles=int(counts[kernel.COMPUTE]),
        fill_drain_cycles=int(counts[kernel.FILL_DRAIN]),
        stall_cycles={cause: int(counts[kernel.STALL0 + i]) for i, cause in enumerate(STALL_CAUSES)},
        stalls=_stalls(plan, stalls),
        traffic=rows,
        energy_pj=energy_pj(plan, rows, total),
        macs=plan.layer.macs,
        active_pe_cycles=active,
        pe_utilization=pe_utilization(plan, total),
        dram_busy_cycles=int(counts[kernel.BUSY]),
        dram_row_cycles=int(counts[kernel.ROW_WAIT]),
        tile_count=int(counts[kernel.EVENTS]),
    )


def _stalls(plan: Plan, cycles: npt.NDArray[np.int64]) -> tuple[Stall, ...]:
    """Stalls by cause and memory; what never stalled has no row."""
    memories = plan.accelerator.memories
    return tuple(
        Stall(cause=cause, memory=memories[number].name, cycles=int(cycles[row, number]))
        for row, cause in enumerate(STALL_CAUSES)
        for number in np.flatnonzero(cycles[row])
    )


def pe_utilization(plan: Plan, total_cycles: int) -> float:
    """Useful products over what all lanes of the grid could have done in that time."""
    element = plan.accelerator.processing_element
    products_per_cycle = plan.accelerator.grid.pe_count * element.lanes(plan.precision) / plan.step_cycles
    return plan.layer.macs / (products_per_cycle * total_cycles)
