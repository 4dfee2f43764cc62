"""The ``fast`` engine: exact cycles by jumping from event to event, inside Numba."""

from __future__ import annotations

import numpy as np

from simulator.counts import PROCESSING_ELEMENTS, DramTraffic, energy_pj, traffic_rows
from simulator.kernels import tile_walk as kernel
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS
from simulator.plan import Plan
from simulator.result import STALL_CAUSES, LayerResult

__all__ = ["PROCESSING_ELEMENTS", "simulate_fast", "walk_input"]

_RELEVANT = np.array([[dim in RELEVANT_DIMS[operand] for dim in DIMS] for operand in OPERANDS])
_NOTHING = np.zeros((1, 1), dtype=np.int64)


def walk_input(plan: Plan) -> kernel.WalkInput:
    """Lay a plan out for the kernel."""
    event_loops = [(dim, False) for dim in plan.dram_loops] + [(dim, True) for dim in plan.buffer_event_loops]
    inner_trips = np.array(
        [plan.buffer_trips[i] if dim in plan.buffer_event_loops else 1 for i, dim in enumerate(DIMS)],
        dtype=np.int64,
    )
    stationary = plan.timing.stationary
    streamed = np.array([stationary is not None and dim not in RELEVANT_DIMS[stationary] for dim in DIMS])
    grid = plan.grid_touched if plan.bypass == "input" else (_NOTHING, _NOTHING)
    precision, dram = plan.precision, plan.accelerator.dram
    bits = [precision.stored_bits(operand) for operand in OPERANDS] + [precision.output.bits]
    return kernel.WalkInput(
        loop_dim=np.array([DIMS.index(dim) for dim, _ in event_loops], dtype=np.int64),
        loop_is_buffer=np.array([inner for _, inner in event_loops], dtype=np.bool_),
        extent=plan.extent,
        buffer_tile=plan.buffer_tile,
        grid_tile=plan.grid_tile,
        unroll=plan.unroll,
        inner_trips=inner_trips,
        streamed=streamed,
        relevant=_RELEVANT,
        buffer_rows=plan.buffer_touched[0],
        buffer_columns=plan.buffer_touched[1],
        grid_rows=grid[0],
        grid_columns=grid[1],
        element_bits=np.array(bits, dtype=np.int64),
        bypass=-1 if plan.bypass is None else OPERANDS.index(plan.bypass),
        bypass_runs_each_event=bool(plan.buffer_event_loops),
        double_buffer=np.array([operand in plan.mapping.double_buffer for operand in OPERANDS]),
        parameter_bits=precision.parameter_bits(plan.layer),
        step_cycles=plan.step_cycles,
        load_cycles=plan.timing.load_cycles,
        tail_cycles=plan.timing.tail_cycles,
        drain_cycles=plan.timing.drain_cycles,
        overlap=plan.timing.overlap,
        preload=plan.timing.preload,
        folds_on=stationary is not None,
        bandwidth=dram.bandwidth_bits_per_cycle,
        latency=dram.latency_cycles,
        burst=dram.burst_bits,
    )


def simulate_fast(plan: Plan) -> LayerResult:
    """Run a plan. Cycles and DRAM traffic come from the walk, the grid's traffic from closed forms."""
    counts = kernel.walk(walk_input(plan))
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
        traffic=rows,
        energy_pj=energy_pj(plan, rows, active),
        macs=plan.layer.macs,
        active_pe_cycles=active,
        pe_utilization=pe_utilization(plan, total),
        dram_busy_cycles=int(counts[kernel.BUSY]),
        tile_count=int(counts[kernel.EVENTS]),
    )


def pe_utilization(plan: Plan, total_cycles: int) -> float:
    """Useful products over what all lanes of the grid could have done in that time."""
    element = plan.accelerator.processing_element
    products_per_cycle = plan.accelerator.grid.pe_count * element.lanes(plan.precision) / plan.step_cycles
    return plan.layer.macs / (products_per_cycle * total_cycles)
