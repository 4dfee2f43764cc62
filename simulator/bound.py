"""The ``bound`` engine: a closed-form lower bound of ``fast`` in cycles, exact in traffic and energy.

Three things take time whatever happens, and each gives a bound:

1. the grid: parameters and the first tiles must arrive, all passes run one after another, and the last outputs
   must drain and be written; tiles of an operand that is not double-buffered load while the grid waits;
2. the DRAM channel: it moves all bits, after its latency;
3. both: the last pass cannot start before all loads are done, and the last write follows it. (From one pass to the
   next the tile of the weight or of the input changes, so the last pass waits for the last load.)
"""

from __future__ import annotations

from dataclasses import dataclass

from simulator.counts import DramTraffic, dram_traffic, energy_pj, traffic_rows
from simulator.fast import pe_utilization
from simulator.layer import DIMS, RELEVANT_DIMS, Dim, Operand
from simulator.plan import Plan
from simulator.result import STALL_CAUSES, LayerResult, StallCause


@dataclass(frozen=True)
class CycleBound:
    """A lower bound of a plan's cycles, and its parts."""

    total_cycles: int
    compute_cycles: int
    fill_drain_cycles: int
    dram_cycles: int


def _ceil(bits: int, bandwidth: int) -> int:
    return -(-bits // bandwidth)


def _grid_overhead(plan: Plan) -> int:
    """Cycles of fill and drain that no schedule hides: exact, but for preloading folds of unequal length."""
    timing = plan.timing
    if timing.stationary is None:
        return timing.tail_cycles
    streamed = [dim for dim in DIMS if dim not in RELEVANT_DIMS[timing.stationary]]
    passes_per_streamed = 1
    folds = 1
    for dim in DIMS:
        if dim in streamed:
            passes_per_streamed *= int(plan.dram_trips[DIMS.index(dim)])
        else:
            folds *= plan.tiles_of(dim, plan.unroll)
    folds *= passes_per_streamed
    tail = timing.tail_cycles
    # Folds shorter than their results take to leave wait for them, all but the last.
    paced = max(0, (folds - 1) * timing.drain_cycles - plan.compute_cycles) if timing.overlap else 0
    if not timing.preload:
        return folds * (timing.load_cycles + (0 if timing.overlap else tail)) + (paced + tail if timing.overlap else 0)
    inside = 0 if timing.overlap else folds * tail
    after = tail if timing.overlap else 0
    events = plan.event_count
    # Each pass pays one load; folds shorter than a load pay the difference, which the sum bounds from below.
    hidden = folds - events
    waits = max(0, hidden * timing.load_cycles - plan.compute_cycles - inside)
    return events * timing.load_cycles + inside + max(waits, paced) + after


def first_tile_bits(plan: Plan, operand: Operand) -> int:
    """Bits of the tile that event 0 loads."""
    if operand == plan.bypass and plan.buffer_event_loops:
        tile, touched = plan.grid_tile.clip(max=plan.buffer_tile), plan.grid_touched
    else:
        tile, touched = plan.buffer_tile, plan.buffer_touched
    plain = ("G", "K", "C", "R", "S") if operand == "weight" else ("G", "N", "C")
    count = 1
    for dim in plain:
        count *= int(min(tile[DIMS.index(dim)], plan.extent[DIMS.index(dim)]))
    if operand == "input":
        count *= int(touched[0][0, 0]) * int(touched[1][0, 0])
    return count * plan.precision.stored_bits(operand)


def _last_extent(plan: Plan, dim: Dim) -> int:
    """Extent of what the last event covers of a dimension."""
    i = DIMS.index(dim)
    last = int(plan.extent[i]) - (int(plan.dram_trips[i]) - 1) * int(plan.buffer_tile[i])
    if dim in plan.buffer_event_loops:
        step = int(plan.grid_tile[i])
        last -= (-(-last // step) - 1) * step
    return last


def last_write_bits(plan: Plan) -> int:
    """Bits of the write-back after the last event."""
    count = 1
    for dim in RELEVANT_DIMS["output"]:
        i = DIMS.index(dim)
        if plan.bypass == "output":
            count *= _last_extent(plan, dim)
        else:
            count *= int(plan.extent[i]) - (int(plan.dram_trips[i]) - 1) * int(plan.buffer_tile[i])
    return count * plan.precision.output.bits


def last_pass_cycles(plan: Plan) -> int:
    """Cycles in which the last pass takes steps."""
    steps = 1
    for i, dim in enumerate(DIMS):
        steps *= -(-_last_extent(plan, dim) // int(plan.unroll[i]))
    return steps * plan.step_cycles


def bound_cycles(plan: Plan, dram: DramTraffic) -> CycleBound:
    """Bound the cycles of a plan from below (module docstring)."""
    memory = plan.accelerator.dram
    bandwidth, latency = memory.bandwidth_bits_per_cycle, memory.latency_cycles
    timing = plan.timing
    compute, overhead = plan.compute_cycles, _grid_overhead(plan)
    first = {operand: first_tile_bits(plan, operand) for operand in ("weight", "input")}
    arrival_bits = dram.parameter_read_bits + sum(first.values())
    start = latency + _ceil(arrival_bits, bandwidth) if arrival_bits else 0
    last_write = _ceil(last_write_bits(plan), bandwidth)

    # Loads that find the grid waiting: those of a slot that the pass before still uses.
    serial_bits = 0
    for operand, moved in (("weight", dram.weight_read_bits), ("input", dram.input_read_bits)):
        if operand not in plan.mapping.double_buffer:
            serial_bits += moved - first[operand]
    if "output" not in plan.mapping.double_buffer:
        serial_bits += dram.sum_read_bits + dram.sum_write_bits + dram.final_write_bits - last_write_bits(plan)
    grid = start + compute + overhead + _ceil(serial_bits, bandwidth) + last_write
    channel = _ceil(dram.total_bits, bandwidth) + (latency if dram.total_bits > dram.final_write_bits else 0)
    loads = dram.parameter_read_bits + dram.weight_read_bits + dram.input_read_bits
    loaded = _ceil(loads, bandwidth) + (latency if loads else 0)
    final = loaded + last_pass_cycles(plan) + timing.tail_cycles + last_write
    total = max(grid, channel, final)
    return CycleBound(total, compute, overhead, channel)


def simulate_bound(plan: Plan) -> LayerResult:
    """Give the bound as a result; what the parts leave over is one stall on the DRAM."""
    dram = dram_traffic(plan)
    cycles = bound_cycles(plan, dram)
    rows = traffic_rows(plan, dram)
    active = plan.active_pe_steps * plan.step_cycles
    stalls: dict[StallCause, int] = dict.fromkeys(STALL_CAUSES, 0)
    stalls["input"] = cycles.total_cycles - cycles.compute_cycles - cycles.fill_drain_cycles
    return LayerResult(
        engine="bound",
        layer=plan.layer.name,
        total_cycles=cycles.total_cycles,
        compute_cycles=cycles.compute_cycles,
        fill_drain_cycles=cycles.fill_drain_cycles,
        stall_cycles=stalls,
        traffic=rows,
        energy_pj=energy_pj(plan, rows, active),
        macs=plan.layer.macs,
        active_pe_cycles=active,
        pe_utilization=pe_utilization(plan, cycles.total_cycles),
        dram_busy_cycles=_ceil(dram.total_bits, plan.accelerator.dram.bandwidth_bits_per_cycle),
        tile_count=plan.event_count,
    )
