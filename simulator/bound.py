"""The ``bound`` engine: a closed-form lower bound of ``fast`` in cycles, exact in traffic and energy (but leakage).

Three things take time whatever happens, and each gives a bound:

1. the grid: parameters and the first tiles must arrive, all passes run one after another, and the last outputs
   must drain and be written; tiles of an operand that is not double-buffered load while the grid waits;
2. the DRAM channel: it moves all bits, after its latency;
3. both: the last pass cannot start before all loads are done, what stays in the grid is then loaded into it, and the
   last write follows the pass. (From one pass to the next the tile of the weight or of the input changes, so the last
   pass waits for the last load.)

Where the time of a step depends on values, all of this is at the least that a step takes, and the energy of the
processing elements is a lower bound too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.accelerator import Accelerator
from simulator.counts import (
    MOVED_INWARD,
    Count,
    DramTraffic,
    Moved,
    dram_traffic,
    energy_pj,
    moved_bits,
    moves_of,
    traffic_rows,
)
from simulator.fast import mean_step_cycles, pe_utilization
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
            passes_per_streamed *= plan.tile_count(dim, plan.levels)
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
    """Bits that DRAM sends of an operand before event 0 may start."""
    level = plan.places(operand)[0].level
    tile = np.vstack([plan.tile, plan.grid_tile])[: level + 1].min(axis=0)
    plain = ("G", "K", "R", "S") if operand == "weight" else ("G", "N")
    count = math.prod(int(tile[DIMS.index(dim)]) for dim in plain)
    if operand == "input":
        rows, columns = plan.touched(level)
        count *= int(rows[0, 0]) * int(columns[0, 0])
    return count * plan.channel_bits(operand, 0, int(tile[DIMS.index("C")]))


def _last_extent(plan: Plan, dim: Dim, level: int) -> int:
    """Extent of the last tile of a level; below the buffers, of what the last event covers."""
    i = DIMS.index(dim)
    last = int(plan.extent[i])
    for tile in plan.tile[1 : level + 1, i].tolist():
        last -= (-(-last // tile) - 1) * tile
    if level > plan.levels and dim in plan.buffer_event_loops:
        step = int(plan.grid_tile[i])
        last -= (-(-last // step) - 1) * step
    return last


def last_write_bits(plan: Plan) -> int:
    """Bits that go to DRAM after the last event."""
    level = plan.places("output")[0].level
    count = math.prod(_last_extent(plan, dim, level) for dim in RELEVANT_DIMS["output"])
    return count * plan.precision.output.bits


def last_pass_cycles(plan: Plan) -> int:
    """Cycles in which the last pass takes steps."""
    places = plan.channels.count
    cycles = plan.steps_cycles_along_channels(places - _last_extent(plan, "C", plan.levels + 1), places)
    for i, dim in enumerate(DIMS):
        if dim != "C":
            cycles *= -(-_last_extent(plan, dim, plan.levels + 1) // int(plan.unroll[i]))
    return cycles


def last_pass_load_cycles(plan: Plan) -> int:
    """Cycles in which the last pass loads what stays in the grid, and takes no steps."""
    timing = plan.timing
    if timing.preload or timing.stationary is None:
        return timing.load_cycles
    folds = 1
    for dim in RELEVANT_DIMS[timing.stationary]:
        folds *= -(-_last_extent(plan, dim, plan.levels + 1) // int(plan.unroll[DIMS.index(dim)]))
    return folds * timing.load_cycles


def _may_be_all_padding(plan: Plan) -> bool:
    """Whether a pass may read no input although a larger buffer loads some for it."""
    places = plan.places("input")
    return len(places) > 1 and min(int(table.min()) for table in plan.touched(places[-1].level)) == 0


def _loads_ahead(plan: Plan, operand: Operand) -> bool:
    """Whether DRAM may move an operand's tiles under the passes."""
    places = plan.places(operand)
    return len(places) > 1 or places[0].double_buffer


def port_cycles(accelerator: Accelerator, rows: Sequence[Moved]) -> list[Count]:
    """Cycles that each of the buffers' limited ports needs, if its banks share the work evenly."""
    found: list[Count] = []
    for buffer in accelerator.buffers:
        own = [row for row in rows if row.memory == buffer.name]
        ways = (
            (sum(row.read_bits for row in own), buffer.read_bandwidth_bits_per_cycle),
            (sum(row.write_bits for row in own), buffer.write_bandwidth_bits_per_cycle),
        )
        # Every transfer is rounded up by itself, so the sum's floor is a bound.
        cycles = [bits // width for bits, width in ways if width is not None]
        if buffer.ports == "shared":
            cycles = [sum(cycles)]
        found += [-(-busy // buffer.banks) for busy in cycles]
    return found


def bound_cycles(plan: Plan, dram: DramTraffic, rows: Sequence[Moved]) -> CycleBound:
    """Bound the cycles of a plan from below (module docstring)."""
    memory = plan.accelerator.dram
    bandwidth, latency = memory.bandwidth_bits_per_cycle, memory.latency_cycles
    timing = plan.timing
    compute, overhead = plan.compute_cycles, _grid_overhead(plan)
    first: dict[Operand, int] = {operand: first_tile_bits(plan, operand) for operand in MOVED_INWARD}
    arrival_bits = dram.parameter_read_bits + first["weight"] + (0 if _may_be_all_padding(plan) else first["input"])
    start = latency + _ceil(arrival_bits, bandwidth) if arrival_bits else 0
    last_write = _ceil(last_write_bits(plan), bandwidth)

    # Loads that find the grid waiting: those of a slot that the pass before still uses. (What a smaller buffer has
    # copied may be overwritten under the pass.)
    serial_bits = 0
    moved_inward: dict[Operand, int] = {"weight": dram.weight_read_bits, "input": dram.input_read_bits}
    for operand, moved in moved_inward.items():
        if not _loads_ahead(plan, operand):
            serial_bits += moved - first[operand]
    if not _loads_ahead(plan, "output"):
        serial_bits += dram.sum_read_bits + dram.sum_write_bits + dram.final_write_bits - last_write_bits(plan)
    grid = start + compute + overhead + _ceil(serial_bits, bandwidth) + last_write
    channel = _ceil(dram.total_bits, bandwidth) + (latency if dram.total_bits > dram.final_write_bits else 0)
    # A pass over nothing but padding does not wait for the input's tile around it, on its way to a smaller buffer.
    inputs = 0 if _may_be_all_padding(plan) else dram.input_read_bits
    loads = dram.parameter_read_bits + dram.weight_read_bits + inputs
    loaded = _ceil(loads, bandwidth) + (latency if loads else 0)
    final = loaded + last_pass_load_cycles(plan) + last_pass_cycles(plan) + timing.tail_cycles + last_write
    total = max(grid, channel, final, *port_cycles(plan.accelerator, rows))
    return CycleBound(total, compute, overhead, channel)


def simulate_bound(plan: Plan) -> LayerResult:
    """Give the bound as a result; what the parts leave over is one stall on the DRAM."""
    moves = moves_of(plan)
    dram = dram_traffic(plan, moves)
    rows = moved_bits(plan, dram, moves)
    cycles = bound_cycles(plan, dram, rows)
    active = plan.active_pe_cycles
    stalls: dict[StallCause, int] = dict.fromkeys(STALL_CAUSES, 0)
    mean_step = mean_step_cycles(plan)
    stalls["input"] = cycles.total_cycles - cycles.compute_cycles - cycles.fill_drain_cycles
    return LayerResult(
        engine="bound",
        layer=plan.layer.name,
        total_cycles=cycles.total_cycles,
        compute_cycles=cycles.compute_cycles,
        fill_drain_cycles=cycles.fill_drain_cycles,
        stall_cycles=stalls,
        traffic=traffic_rows(rows),
        energy_pj=energy_pj(plan, dram, moves, active, cycles.total_cycles),
        macs=plan.layer.macs,
        active_pe_cycles=active,
        pe_utilization=pe_utilization(plan, cycles.total_cycles, mean_step),
        dram_busy_cycles=_ceil(dram.total_bits, plan.accelerator.dram.bandwidth_bits_per_cycle),
        tile_count=plan.event_count,
        mean_step_cycles=mean_step,
    )
