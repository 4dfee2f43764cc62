"""Many mappings of one layer in one call: which are valid, what they move, and their cycles, or a bound of these.

What ``simulator.plan`` checks, ``simulator.counts`` counts and ``simulator.bound`` bounds, for one mapping after the
other and without objects. ``docs/simulator.md`` has the meaning of every number.
"""

from __future__ import annotations

from collections import namedtuple

import numba
import numpy as np

from simulator.kernels.extents import nested_starts, touched_counts
from simulator.kernels.loop_nest import INPUT, OUTPUT, WEIGHT
from simulator.kernels.tile_walk import walk
from simulator.kernels.tiling_input import tiling_input
from simulator.kernels.transfers import COMPUTE, EVENTS, FILL_DRAIN, TOTAL

# Rows of the table that holds a layer and a machine; one array, because Numba counts references to each of them.
EXTENT, STREAMED, RELEVANT, ELEMENT_BITS, REGISTER_BITS, KEEPS_REGISTERS, GEOMETRY, AXES = 0, 1, 2, 5, 6, 7, 8, 10
"""``RELEVANT`` + operand; ``ELEMENT_BITS``: weight, input, partial sum, finished output; ``GEOMETRY`` + direction:
stride, dilation, padding, stored size; ``AXES`` + 2 · axis: what may lie along it, and in the next row its size."""

# Columns of a memory's row, which come behind the axes.
SIZE_BITS, IS_REGISTER, KEEPS, DOUBLES = 0, 1, 2, 5

BatchInput = namedtuple(
    "BatchInput",
    [
        "table",  # (rows, 8)
        "dims",  # dimensions of more than one element
        "axes",  # axes, the lanes included
        "memories",
        "bypass", "stationary",  # operand, or -1
        "registers_are_one",  # whether each lane works on one element at a time
        "parameter_bits", "step_cycles", "load_cycles", "tail_cycles", "drain_cycles", "overlap", "preload", "folds_on",
        "bandwidth", "latency",
    ],
)

Mappings = namedtuple(
    "Mappings",
    [
        "spatial",  # (mappings, axes + 1, 8)
        "buffer_tile", "register_tile",  # (mappings, 8)
        "dram_order", "buffer_order",  # (mappings, 8) every dimension, outermost first
        "double_buffer",  # (mappings, 3)
    ],
)

# Columns of what is counted; -1 in all of them where a mapping is not valid.
CYCLES, COMPUTE_CYCLES, FILL_DRAIN_CYCLES, PASSES, ACTIVE_STEPS = 0, 1, 2, 3, 4
DRAM_ELEMENTS, DRAM_AGAIN, FETCHED_ELEMENTS = 5, 8, 11  # + operand; DRAM_AGAIN: how often each element passes
COLUMNS = 14

_SLOTS = 1 << 12
_DIRECTIONS = ((4, 6), (5, 7))  # positions and taps: P, R and Q, S


# Rows of the scratch array: one number a dimension.
UNROLL, LANES, GRID_TILE, DRAM_TRIPS, BUFFER_TRIPS, FETCHES, STEPS, IS_EVENT, TILE, IN_REGISTERS, PLAIN = range(11)
_SCRATCH_ROWS = 11


@numba.njit(cache=True, error_model="numpy")
def _ceil(value, divisor):
    return (value + divisor - 1) // divisor


@numba.njit(cache=True, error_model="numpy")
def _pairs(b, axis, outer, inner, nested):
    """Distinct rows or columns of each pair of tiles."""
    first, second = _DIRECTIONS[axis]
    row = GEOMETRY + axis
    stride, dilation, padding, size = b.table[row, 0], b.table[row, 1], b.table[row, 2], b.table[row, 3]
    extent = b.table[EXTENT]
    tiles = np.empty((2, 2), dtype=np.int64)
    tiles[0, 0], tiles[0, 1] = outer[first], inner[first]
    tiles[1, 0], tiles[1, 1] = outer[second], inner[second]
    levels = 2 if nested else 1
    return touched_counts(nested_starts(extent[first], tiles[0, :levels]),
                          nested_starts(extent[second], tiles[1, :levels]), stride, dilation, padding, size)


@numba.njit(cache=True, error_model="numpy")
def _touched(b, memo, axis, nested, outer, scratch):
    """Distinct rows or columns that an input's tiles touch: (sum over tiles, of the first tile, of the largest).

    ``outer`` (8,): tiles; ``nested``: the grid's tiles inside them. What was found stays in the memo.
    """
    first, second = _DIRECTIONS[axis]
    of_first, of_second = b.table[EXTENT, first], b.table[EXTENT, second]
    outer_first, outer_second = outer[first], outer[second]
    inner_first, inner_second = scratch[GRID_TILE, first], scratch[GRID_TILE, second]
    row = GEOMETRY + axis
    if of_second == 1 and b.table[row, 2] == 0 and (of_first - 1) * b.table[row, 0] < b.table[row, 3]:
        one = min(inner_first, outer_first) if nested else outer_first
        return of_first, one, one
    if not nested:
        inner_first = inner_second = 0
    mixed = (outer_first * 73856093) ^ (outer_second * 19349663) ^ (inner_first * 83492791) ^ (inner_second * 2654435)
    slot = (mixed * 2 + axis) & (_SLOTS - 1)
    known = memo[slot, 0] == axis and memo[slot, 1] == outer_first and memo[slot, 2] == outer_second
    if not (known and memo[slot, 3] == inner_first and memo[slot, 4] == inner_second):
        counts = _pairs(b, axis, outer, scratch[GRID_TILE], nested)
        memo[slot, 0], memo[slot, 1], memo[slot, 2] = axis, outer_first, outer_second
        memo[slot, 3], memo[slot, 4] = inner_first, inner_second
        memo[slot, 5], memo[slot, 6], memo[slot, 7] = counts.sum(), counts[0, 0], counts.max()
    return memo[slot, 5], memo[slot, 6], memo[slot, 7]


@numba.njit(cache=True, error_model="numpy")
def _gcd(a, b):
    while b:
        a, b = b, a % b
    return a


@numba.njit(cache=True, error_model="numpy")
def _register_elements(b, operand, register, buffer, scratch):
    """Registers that one PE needs for its part of an operand (``Plan.register_elements``)."""
    count = 1
    for place in range(b.dims.shape[0]):
        d = b.dims[place]
        if b.table[RELEVANT + operand, d] and not (operand == INPUT and d >= 4):
            count *= min(register[d] * scratch[LANES, d], buffer[d])
    if operand == INPUT:
        for axis in range(2):
            p, r = _DIRECTIONS[axis]
            positions = min(register[p] * scratch[LANES, p], buffer[p])
            taps = min(register[r] * scratch[LANES, r], buffer[r])
            both = positions * taps
            if both > 1 and scratch[UNROLL, p] == 1 and scratch[UNROLL, r] == 1:
                stride, dilation = b.table[GEOMETRY + axis, 0], b.table[GEOMETRY + axis, 1]
                common = _gcd(stride, dilation)
                both -= max(0, positions - dilation // common) * max(0, taps - stride // common)
            count *= both
    return count


@numba.njit(cache=True, error_model="numpy")
def _lay_out(b, spatial, buffer, register, dram_order, buffer_order, scratch):
    """Trips and tiles of every dimension into the scratch array. Returns whether the mapping's shape is valid.

    Axes hold what lies along them, tiles lie inside the layer, and loops stand where they must.
    """
    axes = b.axes
    for d in range(8):
        scratch[UNROLL, d] = 1
    for axis in range(axes):
        used = 1
        for d in range(8):
            factor = spatial[axis, d]
            if factor != 1:
                if factor < 1 or b.table[AXES + 2 * axis, d] == 0:
                    return False
                used *= factor
                scratch[UNROLL, d] *= factor
        if used > b.table[AXES + 2 * axis + 1, 0]:
            return False
    for d in range(8):
        extent, tile, unroll = b.table[EXTENT, d], buffer[d], scratch[UNROLL, d]
        if tile < 1 or tile > extent or register[d] < 1 or (register[d] > 1 and b.registers_are_one):
            return False
        scratch[LANES, d] = spatial[axes - 1, d]
        scratch[GRID_TILE, d] = unroll * register[d]
        scratch[IS_EVENT, d] = 0
        if extent == 1:
            for row in (DRAM_TRIPS, BUFFER_TRIPS, FETCHES, STEPS):
                scratch[row, d] = 1
            continue
        trips = _ceil(extent, tile)
        last = extent - (trips - 1) * tile
        scratch[DRAM_TRIPS, d] = trips
        # Of tiles that are all alike but the last: how many smaller ones they hold.
        if unroll == 1:
            steps, scratch[STEPS, d] = tile, extent
        else:
            steps = _ceil(tile, unroll)
            scratch[STEPS, d] = (trips - 1) * steps + _ceil(last, unroll)
        if register[d] == 1:
            scratch[BUFFER_TRIPS, d], scratch[FETCHES, d] = steps, scratch[STEPS, d]
        else:
            inside = _ceil(tile, scratch[GRID_TILE, d])
            scratch[BUFFER_TRIPS, d] = inside
            scratch[FETCHES, d] = (trips - 1) * inside + _ceil(last, scratch[GRID_TILE, d])
        if b.bypass >= 0 and scratch[BUFFER_TRIPS, d] > 1 and b.table[RELEVANT + b.bypass, d]:
            scratch[IS_EVENT, d] = 1
    return (
        _names_every_dimension(dram_order) and _names_every_dimension(buffer_order)
        and _stands_inside(b, b.stationary, buffer_order, scratch)
        and _stands_inside(b, b.bypass, buffer_order, scratch)
    )


@numba.njit(cache=True, error_model="numpy")
def _names_every_dimension(order):
    seen = 0
    for place in range(8):
        d = order[place]
        if d < 0 or d > 7:
            return False
        seen |= 1 << d
    return seen == 255


@numba.njit(cache=True, error_model="numpy")
def _stands_inside(b, operand, buffer_order, scratch):
    """Whether the buffer loops irrelevant to an operand are the innermost ones."""
    inside = False
    if operand >= 0:
        for place in range(8):
            d = buffer_order[place]
            if scratch[BUFFER_TRIPS, d] > 1:
                if not b.table[RELEVANT + operand, d]:
                    inside = True
                elif inside:
                    return False
    return True


@numba.njit(cache=True, error_model="numpy")
def _fits(b, scratch, doubled):
    """Whether every memory holds what it keeps, as often as it is kept."""
    for memory in range(AXES + 2 * b.axes, AXES + 2 * b.axes + b.memories):
        demand = 0
        in_registers = b.table[memory, IS_REGISTER] == 1
        for operand in range(3):
            if b.table[memory, KEEPS + operand] == 0 or (operand == b.bypass and not in_registers):
                continue
            if in_registers:
                bits = scratch[IN_REGISTERS, operand] * b.table[REGISTER_BITS, operand]
            else:
                bits = scratch[TILE, operand] * b.table[ELEMENT_BITS, operand]
            # A bypassing operand is doubled in the registers, all others in their buffers.
            if doubled[operand] and in_registers == (operand == b.bypass):
                if b.table[memory, DOUBLES + operand] == 0:
                    return False
                bits *= 2
            demand += bits
        if demand > b.table[memory, SIZE_BITS]:
            return False
    return True


@numba.njit(cache=True, error_model="numpy")
def _overhead(b, scratch, compute, passes):
    """Cycles of fill and drain that no schedule hides (``simulator.bound``)."""
    if not b.folds_on:
        return b.tail_cycles
    folds = np.int64(1)
    for place in range(b.dims.shape[0]):
        d = b.dims[place]
        folds *= scratch[DRAM_TRIPS, d] if b.table[STREAMED, d] else scratch[STEPS, d]
    paced = max(0, (folds - 1) * b.drain_cycles - compute) if b.overlap else 0
    inside = 0 if b.overlap else folds * b.tail_cycles
    after = b.tail_cycles if b.overlap else 0
    if not b.preload:
        return folds * b.load_cycles + inside + paced + after
    waits = max(0, (folds - passes) * b.load_cycles - compute - inside)
    return passes * b.load_cycles + inside + max(waits, paced) + after


@numba.njit(cache=True, error_model="numpy")
def _count(b, m, i, memo, scratch, row):
    """Count one mapping into ``row``; leave it as it is where the mapping is not valid."""
    buffer, register, doubled = m.buffer_tile[i], m.register_tile[i], m.double_buffer[i]
    if not _lay_out(b, m.spatial[i], buffer, register, m.dram_order[i], m.buffer_order[i], scratch):
        return
    rows_sum, rows_first, rows_largest = _touched(b, memo, 0, False, buffer, scratch)
    columns_sum, columns_first, columns_largest = _touched(b, memo, 1, False, buffer, scratch)
    for operand in range(3):
        tile, plain = np.int64(1), np.int64(1)
        for place in range(b.dims.shape[0]):
            d = b.dims[place]
            if b.table[RELEVANT + operand, d] and not (operand == INPUT and d >= 4):
                tile *= buffer[d]
                plain *= b.table[EXTENT, d]
        scratch[TILE, operand], scratch[PLAIN, operand] = tile, plain
        if b.table[KEEPS_REGISTERS, operand]:
            scratch[IN_REGISTERS, operand] = _register_elements(b, operand, register, buffer, scratch)
    scratch[TILE, INPUT] *= rows_largest * columns_largest
    if not _fits(b, scratch, doubled):
        return

    bypass = b.bypass
    refills = False
    steps, active, passes = np.int64(1), np.int64(1), np.int64(1)
    for place in range(b.dims.shape[0]):
        d = b.dims[place]
        lanes = scratch[LANES, d]
        trips = scratch[DRAM_TRIPS, d]
        steps *= scratch[STEPS, d]
        if lanes == 1:
            active *= b.table[EXTENT, d]
        else:
            active *= (trips - 1) * _ceil(buffer[d], lanes) + _ceil(b.table[EXTENT, d] - (trips - 1) * buffer[d], lanes)
        if scratch[IS_EVENT, d]:
            refills = True
            passes *= scratch[FETCHES, d]
        else:
            passes *= trips
    grid_rows, grid_rows_first, _ = _touched(b, memo, 0, True, buffer, scratch)
    grid_columns, grid_columns_first, _ = _touched(b, memo, 1, True, buffer, scratch)

    for operand in range(3):
        # Over the DRAM loops: those inside the innermost relevant one do not fetch again.
        refilled = operand == bypass and refills
        inside = not refilled
        again = np.int64(1)
        for place in range(7, -1, -1):
            d = m.dram_order[i, place]
            if scratch[DRAM_TRIPS, d] > 1:
                if b.table[RELEVANT + operand, d]:
                    inside = False
                elif not inside:
                    again *= scratch[DRAM_TRIPS, d]
        # Over the buffer loops likewise, within a pass and where a register file holds the operand.
        fetched = scratch[PLAIN, operand]
        held = b.table[KEEPS_REGISTERS, operand] == 1
        for place in range(7, -1, -1):
            d = m.buffer_order[i, place]
            if held and scratch[BUFFER_TRIPS, d] > 1 and (b.table[RELEVANT + operand, d] or scratch[IS_EVENT, d]):
                held = False
            if not b.table[RELEVANT + operand, d]:
                fetched *= scratch[DRAM_TRIPS, d] if held else scratch[FETCHES, d]
        loaded = scratch[PLAIN, operand] * again
        if operand == INPUT:
            fetched *= grid_rows * grid_columns
            loaded *= grid_rows * grid_columns if refilled else rows_sum * columns_sum
        row[DRAM_ELEMENTS + operand] = loaded
        row[DRAM_AGAIN + operand] = again
        row[FETCHED_ELEMENTS + operand] = fetched
    compute = steps * b.step_cycles
    overhead = _overhead(b, scratch, compute, passes)
    row[ACTIVE_STEPS], row[PASSES], row[COMPUTE_CYCLES], row[FILL_DRAIN_CYCLES] = active, passes, compute, overhead
    first_rows = grid_rows_first * grid_columns_first if bypass == INPUT and refills else rows_first * columns_first
    row[CYCLES] = _bound(b, buffer, doubled, scratch, refills, first_rows, row)


@numba.njit(cache=True, error_model="numpy")
def _bound(b, buffer, doubled, scratch, refills, first_rows, row):
    """Lower bound of the cycles, from what is counted in ``row`` (``simulator.bound``).

    ``first_rows``: distinct rows times columns of the first input tile.
    """
    bandwidth = b.bandwidth
    first_weights, first_inputs = b.table[ELEMENT_BITS, WEIGHT], b.table[ELEMENT_BITS, INPUT] * first_rows
    last_write, last_steps = b.table[ELEMENT_BITS, 3], np.int64(1)
    for place in range(b.dims.shape[0]):
        d = b.dims[place]
        one = buffer[d]
        small = min(scratch[GRID_TILE, d], one)
        if b.table[RELEVANT + WEIGHT, d]:
            first_weights *= small if b.bypass == WEIGHT and refills else one
        if b.table[RELEVANT + INPUT, d] and d < 4:
            first_inputs *= small if b.bypass == INPUT and refills else one
        last = b.table[EXTENT, d] - (scratch[DRAM_TRIPS, d] - 1) * one
        inner = last
        if scratch[IS_EVENT, d]:
            inner = last - (_ceil(last, scratch[GRID_TILE, d]) - 1) * scratch[GRID_TILE, d]
        last_steps *= inner if scratch[UNROLL, d] == 1 else _ceil(inner, scratch[UNROLL, d])
        if b.table[RELEVANT + OUTPUT, d]:
            last_write *= inner if b.bypass == OUTPUT else last
    weights = row[DRAM_ELEMENTS + WEIGHT] * b.table[ELEMENT_BITS, WEIGHT]
    inputs = row[DRAM_ELEMENTS + INPUT] * b.table[ELEMENT_BITS, INPUT]
    sums = scratch[PLAIN, OUTPUT] * (row[DRAM_AGAIN + OUTPUT] - 1) * b.table[ELEMENT_BITS, OUTPUT]
    finished = scratch[PLAIN, OUTPUT] * b.table[ELEMENT_BITS, 3]
    arrival = b.parameter_bits + first_weights + first_inputs
    start = b.latency + _ceil(arrival, bandwidth) if arrival > 0 else 0
    loads = b.parameter_bits + weights + inputs
    serial = np.int64(0)
    if not doubled[WEIGHT]:
        serial += weights - first_weights
    if not doubled[INPUT]:
        serial += inputs - first_inputs
    if not doubled[OUTPUT]:
        serial += 2 * sums + finished - last_write
    write_cycles = _ceil(last_write, bandwidth)
    grid = start + row[COMPUTE_CYCLES] + row[FILL_DRAIN_CYCLES] + _ceil(serial, bandwidth) + write_cycles
    everything = loads + 2 * sums + finished
    channel = _ceil(everything, bandwidth) + (b.latency if everything > finished else 0)
    loaded = _ceil(loads, bandwidth) + (b.latency if loads > 0 else 0)
    final = loaded + last_steps * b.step_cycles + b.tail_cycles + write_cycles
    return max(grid, channel, final)


@numba.njit(cache=True, error_model="numpy")
def _walk(w, geometry, m, i, scratch, row):
    """Walk one mapping, event by event: what ``_count`` bounded, exactly. ``scratch`` is as it left it."""
    counts, _ = walk(tiling_input(
        w, geometry, m.dram_order[i], m.buffer_order[i], m.buffer_tile[i], m.register_tile[i],
        scratch[UNROLL].copy(), m.double_buffer[i],
    ))
    row[CYCLES] = counts[TOTAL]
    row[COMPUTE_CYCLES] = counts[COMPUTE]
    row[FILL_DRAIN_CYCLES] = counts[FILL_DRAIN]
    row[PASSES] = counts[EVENTS]


@numba.njit(cache=True, error_model="numpy")
def bound_batch(b, m):
    """Count every mapping of a batch, and bound its cycles: int64 (mappings, ``COLUMNS``), -1 where it is not valid.

    Ports of buffers are left out of the bound.
    """
    found = np.full((m.buffer_tile.shape[0], COLUMNS), -1, dtype=np.int64)
    memo = np.full((_SLOTS, 8), -1, dtype=np.int64)
    scratch = np.ones((_SCRATCH_ROWS, 8), dtype=np.int64)
    for i in range(found.shape[0]):
        _count(b, m, i, memo, scratch, found[i])
    return found


@numba.njit(cache=True, error_model="numpy")
def walk_batch(w, b, m, most_passes):
    """As ``bound_batch``, with the cycles of the walk from event to event.

    ``w``: ``WalkInput`` of any mapping with the same bypass. Mappings of more than ``most_passes`` passes keep their
    counts and have -1 cycles. Ports of buffers and rows of the DRAM are in the walk, and not in the bound here.
    """
    found = np.full((m.buffer_tile.shape[0], COLUMNS), -1, dtype=np.int64)
    memo = np.full((_SLOTS, 8), -1, dtype=np.int64)
    scratch = np.ones((_SCRATCH_ROWS, 8), dtype=np.int64)
    geometry = b.table[GEOMETRY : GEOMETRY + 2, :4].copy()
    for i in range(found.shape[0]):
        row = found[i]
        _count(b, m, i, memo, scratch, row)
        if row[PASSES] > most_passes:
            row[CYCLES] = row[FILL_DRAIN_CYCLES] = -1
        elif row[PASSES] > 0:
            _walk(w, geometry, m, i, scratch, row)
    return found
