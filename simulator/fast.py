"""The ``fast`` engine: exact cycles by jumping from event to event, inside Numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.activity import step_count
from simulator.counts import DramTraffic, energy_pj, moved_bits, moves_of, traffic_rows
from simulator.errors import ConfigurationError, Problem
from simulator.kernels import transfers as kernel
from simulator.kernels import walk
from simulator.plan import Plan
from simulator.result import STALL_CAUSES, LayerResult, Stall
from simulator.value_timing import PassTimes, time_passes
from simulator.values import LayerValues
from simulator.walk_input import walk_input


def timed_walk_input(plan: Plan, values: LayerValues | None) -> tuple[kernel.WalkInput, PassTimes | None]:
    """Lay a plan out for the kernel, with the time of each pass where the processing element's steps depend on values.

    The second is that time, else None. Raises ``ConfigurationError`` where values are needed and missing, or do not fit
    the layer.
    """
    laid_out = walk_input(plan)
    if not plan.accelerator.processing_element.depends_on_values:
        return laid_out, None
    if values is None:
        rule = "the time of its processing element depends on values, and none are given"
        raise ConfigurationError(Problem(rule, where=f"layer {plan.layer.name}", path=plan.accelerator.name))
    values.check(plan.layer, plan.precision)
    passes = time_passes(plan, laid_out, values)
    timed = laid_out._replace(pass_compute=passes.compute, pass_occupied=passes.occupied, pass_early=passes.early)
    return timed, passes


def simulate_fast(plan: Plan, values: LayerValues | None = None) -> LayerResult:
    """Run a plan. Cycles and DRAM traffic come from the walk, the grid's traffic from closed forms.

    ``values``: codes of the operands, for processing elements whose time depends on them; others ignore them.
    Raises ``ConfigurationError`` where they are needed and missing, or do not fit the layer.
    """
    laid_out, passes = timed_walk_input(plan, values)
    counts, stalls = walk(laid_out)
    dram = DramTraffic(
        weight_read_bits=int(counts[kernel.WEIGHT_READ]),
        input_read_bits=int(counts[kernel.INPUT_READ]),
        sum_read_bits=int(counts[kernel.SUM_READ]),
        final_write_bits=int(counts[kernel.FINAL_WRITE]),
        sum_write_bits=int(counts[kernel.SUM_WRITE]),
        parameter_read_bits=int(counts[kernel.PARAMETER_READ]),
    )
    moves = moves_of(plan)
    active = plan.active_pe_cycles if passes is None else passes.active_pe_cycles
    total = int(counts[kernel.TOTAL])
    step_cycles = mean_step_cycles(plan) if passes is None else int(counts[kernel.COMPUTE]) / step_count(plan)
    return LayerResult(
        engine="fast",
        layer=plan.layer.name,
        total_cycles=total,
        compute_cycles=int(counts[kernel.COMPUTE]),
        fill_drain_cycles=int(counts[kernel.FILL_DRAIN]),
        stall_cycles={cause: int(counts[kernel.STALL0 + i]) for i, cause in enumerate(STALL_CAUSES)},
        stalls=_stalls(plan, stalls),
        traffic=traffic_rows(moved_bits(plan, dram, moves)),
        energy_pj=energy_pj(plan, dram, moves, active, total),
        macs=plan.layer.macs,
        active_pe_cycles=active,
        pe_utilization=pe_utilization(plan, total, step_cycles),
        dram_busy_cycles=int(counts[kernel.BUSY]),
        dram_row_cycles=int(counts[kernel.ROW_WAIT]),
        tile_count=int(counts[kernel.EVENTS]),
        value_source=None if passes is None or values is None else values.source,
        mean_step_cycles=step_cycles,
    )


def _stalls(plan: Plan, cycles: npt.NDArray[np.int64]) -> tuple[Stall, ...]:
    """Stalls by cause and memory; what never stalled has no row."""
    memories = plan.accelerator.memories
    return tuple(
        Stall(cause=cause, memory=memories[number].name, cycles=int(cycles[row, number]))
        for row, cause in enumerate(STALL_CAUSES)
        for number in np.flatnonzero(cycles[row])
    )


def mean_step_cycles(plan: Plan) -> float:
    """Cycles of a step in the mean, where they do not depend on values."""
    return float(plan.step_cycles) if plan.precision.split is None else plan.compute_cycles / step_count(plan)


def pe_utilization(plan: Plan, total_cycles: int, step_cycles: float) -> float:
    """Useful products over what all lanes of the grid could have done in that time, a step every ``step_cycles``.

    Of a layer split by channel: the time that all lanes need for its products, each part at its own rate, over it.
    """
    element = plan.accelerator.processing_element
    if plan.precision.split is not None:
        needed = sum(
            count * element.cycles_per_step(part) / element.lanes(part) for part, count in plan.products()
        )
        return needed / (plan.accelerator.grid.pe_count * total_cycles)
    products_per_cycle = plan.accelerator.grid.pe_count * element.lanes(plan.precision) / step_cycles
    return plan.layer.macs / (products_per_cycle * total_cycles)
