"""Many mappings of one layer in one call: which are valid, what they move, and their cycles, or a bound of these.

What ``simulator.plan`` checks, ``simulator.counts`` counts and ``simulator.bound`` bounds, for one mapping after the
other and without objects. ``docs/simulator.md`` has the meaning of every number.
"""

from __future__ import annotations

from collections import namedtuple

import numba
import numpy as np

from simulator.kernels.compiled import inner
from simulator.kernels.extents import nested_starts, touched_counts
from simulator.kernels.loop_nest import INPUT, OUTPUT, WEIGHT
from simulator.kernels.plain_walk import ENDLESS, plain_walk
from simulator.kernels.tile_walk import full_walk
from simulator.kernels.tiling_input import tiling_input
from simulator.kernels.transfers import COMPUTE, EVENTS, FILL_DRAIN, TOTAL

# Rows of the table that holds a layer and a machine; one array, because Numba counts references to each of them.
EXTENT, STREAMED, RELEVANT, IRRELEVANT_TO, ELEMENT_BITS, REGISTER_BITS, KEEPS_REGISTERS, GEOMETRY, AXES = (
    0, 1, 2, 3, 4, 5, 6, 7, 9
)
"""``RELEVANT``: the operands to which a dimension is relevant, as a set of bits; ``IRRELEVANT_TO``: the one to which it
is not, ``NO_OPERAND`` where there is none; ``ELEMENT_BITS``: weight, input, partial sum, finished output;
``GEOMETRY`` + direction: stride, dilation, padding, stored size; ``AXES`` + 2 · axis: what may lie along it, and in the
next row its size."""
NO_OPERAND = 3

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
# Inlined by LLVM, since calls would copy the tuples of arrays: a third of the time. Dimensions that index arrays are
# unsigned in the hot loops, because Numba asks of others whether they count from the end.
_inlined = inner(error_model="numpy", forceinline=True)
_DIRECTIONS = ((4, 6), (5, 7))  # positions and taps: P, R and Q, S

# Rows of the scratch array: one number a dimension, or from ``TILE`` on one an operand.
UNROLL, GRID_TILE, DRAM_TRIPS, BUFFER_TRIPS, FETCHES, IS_EVENT, TILE, IN_REGISTERS, PLAIN, AGAIN, FETCHED = range(11)
_SCRATCH_ROWS = 11


@_inlined
def _ceil(value, divisor):
    return (value + divisor - 1) // divisor


@inner(error_model="numpy")
def _pairs(b, axis, outer_first, outer_second, inner_first, inner_second, levels):
    """Distinct rows or columns of each pair of tiles."""
    first, second = _DIRECTIONS[axis]
    row = GEOMETRY + axis
    stride, dilation, padding, size = b.table[row, 0], b.table[row, 1], b.table[row, 2], b.table[row, 3]
    tiles = np.empty((2, 2), dtype=np.int64)
    tiles[0, 0], tiles[0, 1] = outer_first, inner_first
    tiles[1, 0], tiles[1, 1] = outer_second, inner_second
    return touched_counts(nested_starts(b.table[EXTENT, first], tiles[0, :levels]),
                          nested_starts(b.table[EXTENT, second], tiles[1, :levels]), stride, dilation, padding, size)


@_inlined
def _touched(b, m, i, memo, axis, scratch):
    """Distinct rows or columns that the input's tiles touch: of buffer tiles (sum, of the first tile, of the largest),
    and of the grid's tiles inside them (sum, of the first tile). What was found stays in the memo.
    """
    first, second = _DIRECTIONS[axis]
    of_first = b.table[EXTENT, first]
    outer_first, inner_first = m.buffer_tile[i, first], scratch[GRID_TILE, first]
    row = GEOMETRY + axis
    if b.table[EXTENT, second] == 1 and b.table[row, 2] == 0 and (of_first - 1) * b.table[row, 0] < b.table[row, 3]:
        return of_first, outer_first, outer_first, of_first, min(inner_first, outer_first)
    outer_second, inner_second = m.buffer_tile[i, second], scratch[GRID_TILE, second]
    mixed = (outer_first * 73856093) ^ (outer_second * 19349663) ^ (inner_first * 83492791) ^ (inner_second * 2654435)
    slot = (mixed * 2 + axis) & (_SLOTS - 1)
    known = memo[slot, 0] == axis and memo[slot, 1] == outer_first and memo[slot, 2] == outer_second
    if not (known and memo[slot, 3] == inner_first and memo[slot, 4] == inner_second):
        counts = _pairs(b, axis, outer_first, outer_second, inner_first, inner_second, 1)
        memo[slot, 0], memo[slot, 1], memo[slot, 2] = axis, outer_first, outer_second
        memo[slot, 3], memo[slot, 4] = inner_first, inner_second
        memo[slot, 5], memo[slot, 6], memo[slot, 7] = counts.sum(), counts[0, 0], counts.max()
        counts = _pairs(b, axis, outer_first, outer_second, inner_first, inner_second, 2)
        memo[slot, 8], memo[slot, 9] = counts.sum(), counts[0, 0]
    return memo[slot, 5], memo[slot, 6], memo[slot, 7], memo[slot, 8], memo[slot, 9]


@inner(error_model="numpy")
def _gcd(a, b):
    while b:
        a, b = b, a % b
    return a


@inner(error_model="numpy")
def _window_registers(b, m, i, scratch):
    """Registers for the rows times columns of the input that one PE works on (``Plan.register_elements``)."""
    count = np.int64(1)
    for axis in range(2):
        p, r = _DIRECTIONS[axis]
        positions = min(m.register_tile[i, p] * m.spatial[i, b.axes - 1, p], m.buffer_tile[i, p])
        taps = min(m.register_tile[i, r] * m.spatial[i, b.axes - 1, r], m.buffer_tile[i, r])
        both = positions * taps
        if both > 1 and scratch[UNROLL, p] == 1 and scratch[UNROLL, r] == 1:
            stride, dilation = b.table[GEOMETRY + axis, 0], b.table[GEOMETRY + axis, 1]
            common = _gcd(stride, dilation)
            both -= max(0, positions - dilation // common) * max(0, taps - stride // common)
        count *= both
    return count


@_inlined
def _is_laid_out(b, m, i, scratch):
    """Whether axes hold what lies along them, and tiles lie inside the layer; sets ``UNROLL`` and ``GRID_TILE``."""
    for d in range(8):
        scratch[UNROLL, d] = 1
    for axis in range(b.axes):
        differs = np.int64(0)
        for d in range(8):
            differs |= m.spatial[i, axis, d] ^ 1
        if differs == 0:
            continue
        used = np.int64(1)
        for d in range(8):
            factor = m.spatial[i, axis, d]
            if factor != 1:
                if factor < 1 or b.table[AXES + 2 * axis, d] == 0:
                    return False
                used *= factor
                scratch[UNROLL, d] *= factor
        if used > b.table[AXES + 2 * axis + 1, 0]:
            return False
    wrong = False
    most = np.int64(1) if b.registers_are_one else np.int64(1) << 62
    for d in range(8):
        tile, register = m.buffer_tile[i, d], m.register_tile[i, d]
        wrong |= (tile < 1) | (tile > b.table[EXTENT, d]) | (register < 1) | (register > most)
        scratch[GRID_TILE, d] = scratch[UNROLL, d] * register
    return not wrong


@_inlined
def _fits(b, m, i, scratch):
    """Whether every memory holds what it keeps, as often as it is kept."""
    for memory in range(AXES + 2 * b.axes, AXES + 2 * b.axes + b.memories):
        demand = np.int64(0)
        in_registers = b.table[memory, IS_REGISTER] == 1
        for operand in range(3):
            if b.table[memory, KEEPS + operand] == 0 or (operand == b.bypass and not in_registers):
                continue
            if in_registers:
                bits = scratch[IN_REGISTERS, operand] * b.table[REGISTER_BITS, operand]
            else:
                bits = scratch[TILE, operand] * b.table[ELEMENT_BITS, operand]
            # A bypassing operand is doubled in the registers, all others in their buffers.
            if m.double_buffer[i, operand] and in_registers == (operand == b.bypass):
                if b.table[memory, DOUBLES + operand] == 0:
                    return False
                bits *= 2
            demand += bits
        if demand > b.table[memory, SIZE_BITS]:
            return False
    return True


@_inlined
def _count_loads(b, m, i, scratch, refilled):
    """How often each operand passes between DRAM and its place, into ``AGAIN``; whether the order is one.

    Loops inside an operand's innermost relevant one do not load it again. ``refilled``: the operands, as bits, that
    each event loads anew.
    """
    for operand in range(4):
        scratch[AGAIN, operand] = 1
    inside, seen = np.int64(7) & ~refilled, np.int64(0)
    for place in range(7, -1, -1):
        named = m.dram_order[i, place]
        if named < 0 or named > 7:
            return False
        seen |= np.int64(1) << named
        d = np.uint64(named)
        trips = scratch[DRAM_TRIPS, d]
        if trips > 1:
            inside &= ~b.table[RELEVANT, d]
            operand = b.table[IRRELEVANT_TO, d]
            if (inside >> operand) & 1 == 0:
                scratch[AGAIN, operand] *= trips
    return seen == 255


@_inlined
def _count_fetches(b, m, i, scratch):
    """Elements that the grid fetches of each operand, into ``FETCHED``; whether the order is one that may be.

    Within a pass a register file holds an operand across the loops inside its innermost relevant one. Loops irrelevant
    to what is stationary, and to what bypasses, must be the innermost ones.
    """
    held, inside, seen = np.int64(0), np.int64(7), np.int64(0)
    for operand in range(3):
        scratch[FETCHED, operand] = scratch[PLAIN, operand]
        held |= b.table[KEEPS_REGISTERS, operand] << operand
    scratch[FETCHED, NO_OPERAND] = 1
    for place in range(7, -1, -1):
        named = m.buffer_order[i, place]
        if named < 0 or named > 7:
            return False
        seen |= np.int64(1) << named
        d = np.uint64(named)
        operand = b.table[IRRELEVANT_TO, d]
        if scratch[BUFFER_TRIPS, d] > 1:
            inside &= ~b.table[RELEVANT, d]
            held &= ~(b.table[RELEVANT, d] | scratch[IS_EVENT, d])
            if (operand == b.stationary or operand == b.bypass) and (inside >> operand) & 1 == 0:
                return False
        scratch[FETCHED, operand] *= scratch[DRAM_TRIPS, d] if (held >> operand) & 1 else scratch[FETCHES, d]
    return seen == 255


@_inlined
def _overhead(b, folds, compute, passes):
    """Cycles of fill and drain that no schedule hides (``simulator.bound``)."""
    if not b.folds_on:
        return b.tail_cycles
    paced = max(0, (folds - 1) * b.drain_cycles - compute) if b.overlap else 0
    inside = 0 if b.overlap else folds * b.tail_cycles
    after = b.tail_cycles if b.overlap else 0
    if not b.preload:
        return folds * b.load_cycles + inside + paced + after
    waits = max(0, (folds - passes) * b.load_cycles - compute - inside)
    return passes * b.load_cycles + inside + max(waits, paced) + after


@_inlined
def _count(b, m, i, memo, scratch, found):
    """Count one mapping into its row of ``found``; leave that as it is where the mapping is not valid."""
    if not _is_laid_out(b, m, i, scratch):
        return
    bypass, lanes_axis = b.bypass, b.axes - 1
    weight_tile = input_tile = output_tile = np.int64(1)
    weight_registers = input_registers = output_registers = np.int64(1)
    # First tiles of the grid, first and last of what an event works on.
    weight_first = input_first = last_write = last_steps = np.int64(1)
    steps = active = passes = folds = last_folds = np.int64(1)
    refills = False
    for place in range(b.dims.shape[0]):
        d = np.uint64(b.dims[place])
        extent, tile, register = b.table[EXTENT, d], m.buffer_tile[i, d], m.register_tile[i, d]
        unroll, lanes, grid_tile = scratch[UNROLL, d], m.spatial[i, lanes_axis, d], scratch[GRID_TILE, d]
        relevant = b.table[RELEVANT, d]
        trips = _ceil(extent, tile)
        last = extent - (trips - 1) * tile
        # Of tiles that are all alike but the last: how many smaller ones they hold.
        if unroll == 1:
            inside, of_last, of_all = tile, last, extent
        else:
            inside, of_last = _ceil(tile, unroll), _ceil(last, unroll)
            of_all = (trips - 1) * inside + of_last
        steps *= of_all
        folds *= trips if b.table[STREAMED, d] else of_all
        buffer_trips, fetches, last_fetches = inside, of_all, of_last
        if register != 1:
            buffer_trips, last_fetches = _ceil(tile, grid_tile), _ceil(last, grid_tile)
            fetches = (trips - 1) * buffer_trips + last_fetches
        rest = last
        if bypass >= 0 and buffer_trips > 1 and (relevant >> bypass) & 1:
            refills = True
            scratch[IS_EVENT, d] = 7
            passes *= fetches
            rest = last - (last_fetches - 1) * grid_tile
            of_last = _ceil(rest, unroll)
        else:
            scratch[IS_EVENT, d] = 0
            passes *= trips
        scratch[DRAM_TRIPS, d], scratch[BUFFER_TRIPS, d], scratch[FETCHES, d] = trips, buffer_trips, fetches
        last_steps *= of_last
        if not b.table[STREAMED, d]:
            last_folds *= of_last
        active *= extent if lanes == 1 else (trips - 1) * _ceil(tile, lanes) + _ceil(last, lanes)
        in_pe = min(register * lanes, tile)
        if relevant & 1:
            weight_tile *= tile
            weight_registers *= in_pe
            weight_first *= min(grid_tile, tile)
        if relevant & 2 and d < 4:
            input_tile *= tile
            input_registers *= in_pe
            input_first *= min(grid_tile, tile)
        if relevant & 4:
            output_tile *= tile
            output_registers *= in_pe
            last_write *= rest if bypass == OUTPUT else last
    refilled = np.int64(1) << bypass if refills else np.int64(0)
    if not _count_fetches(b, m, i, scratch) or not _count_loads(b, m, i, scratch, refilled):
        return
    rows_sum, rows_first, rows_largest, grid_rows, grid_rows_first = _touched(b, m, i, memo, 0, scratch)
    columns_sum, columns_first, columns_largest, grid_columns, grid_columns_first = _touched(b, m, i, memo, 1, scratch)
    if b.table[KEEPS_REGISTERS, INPUT]:
        input_registers *= _window_registers(b, m, i, scratch)
    scratch[IN_REGISTERS, WEIGHT], scratch[IN_REGISTERS, OUTPUT] = weight_registers, output_registers
    scratch[IN_REGISTERS, INPUT] = input_registers
    scratch[TILE, WEIGHT], scratch[TILE, OUTPUT] = weight_tile, output_tile
    scratch[TILE, INPUT] = input_tile * rows_largest * columns_largest
    if not _fits(b, m, i, scratch):
        return

    scratch[FETCHED, INPUT] *= grid_rows * grid_columns
    once = rows_sum * columns_sum
    first_weights, first_inputs = weight_tile, input_tile * rows_first * columns_first
    if refills and bypass == INPUT:
        once, first_inputs = grid_rows * grid_columns, input_first * grid_rows_first * grid_columns_first
    if refills and bypass == WEIGHT:
        first_weights = weight_first
    for operand in range(3):
        again = scratch[AGAIN, operand]
        loaded = scratch[PLAIN, operand] * again
        found[i, DRAM_ELEMENTS + operand] = loaded * once if operand == INPUT else loaded
        found[i, DRAM_AGAIN + operand] = again
        found[i, FETCHED_ELEMENTS + operand] = scratch[FETCHED, operand]
    compute = steps * b.step_cycles
    overhead = _overhead(b, folds, compute, passes)
    found[i, ACTIVE_STEPS], found[i, PASSES] = active, passes
    found[i, COMPUTE_CYCLES], found[i, FILL_DRAIN_CYCLES] = compute, overhead
    found[i, CYCLES] = _bound(b, m, i, scratch, found, first_weights, first_inputs, last_write, last_steps, last_folds)


@_inlined
def _bound(b, m, i, scratch, found, first_weights, first_inputs, last_write, last_steps, last_folds):
    """Lower bound of the cycles, from what is counted in ``found`` (``simulator.bound``).

    Elements of the first tiles and of the last write, and steps and folds of the last pass.
    """
    bandwidth = b.bandwidth
    first_weights *= b.table[ELEMENT_BITS, WEIGHT]
    first_inputs *= b.table[ELEMENT_BITS, INPUT]
    last_write *= b.table[ELEMENT_BITS, 3]
    weights = found[i, DRAM_ELEMENTS + WEIGHT] * b.table[ELEMENT_BITS, WEIGHT]
    inputs = found[i, DRAM_ELEMENTS + INPUT] * b.table[ELEMENT_BITS, INPUT]
    sums = scratch[PLAIN, OUTPUT] * (found[i, DRAM_AGAIN + OUTPUT] - 1) * b.table[ELEMENT_BITS, OUTPUT]
    finished = scratch[PLAIN, OUTPUT] * b.table[ELEMENT_BITS, 3]
    arrival = b.parameter_bits + first_weights + first_inputs
    start = b.latency + _ceil(arrival, bandwidth) if arrival > 0 else 0
    loads = b.parameter_bits + weights + inputs
    serial = np.int64(0)
    if not m.double_buffer[i, WEIGHT]:
        serial += weights - first_weights
    if not m.double_buffer[i, INPUT]:
        serial += inputs - first_inputs
    if not m.double_buffer[i, OUTPUT]:
        serial += 2 * sums + finished - last_write
    write_cycles = _ceil(last_write, bandwidth)
    grid = start + found[i, COMPUTE_CYCLES] + found[i, FILL_DRAIN_CYCLES] + _ceil(serial, bandwidth) + write_cycles
    everything = loads + 2 * sums + finished
    channel = _ceil(everything, bandwidth) + (b.latency if everything > finished else 0)
    loaded = _ceil(loads, bandwidth) + (b.latency if loads > 0 else 0)
    if b.folds_on:
        loaded += b.load_cycles * (1 if b.preload else last_folds)
    final = loaded + last_steps * b.step_cycles + b.tail_cycles + write_cycles
    return max(grid, channel, final)


@inner(error_model="numpy")
def _new_scratch(b):
    """Scratch array with all that no mapping changes."""
    scratch = np.ones((_SCRATCH_ROWS, 8), dtype=np.int64)
    for d in range(8):
        scratch[IS_EVENT, d] = 0
    for place in range(b.dims.shape[0]):
        d = b.dims[place]
        for operand in range(3):
            if (b.table[RELEVANT, d] >> operand) & 1 and not (operand == INPUT and d >= 4):
                scratch[PLAIN, operand] *= b.table[EXTENT, d]
    return scratch


@inner(error_model="numpy")
def _walk(w, geometry, m, i, scratch, found, full):
    """Walk one mapping, event by event: what ``_count`` bounded, exactly. ``scratch`` is as it left it."""
    one = tiling_input(
        w, geometry, m.dram_order[i], m.buffer_order[i], m.buffer_tile[i], m.register_tile[i],
        scratch[UNROLL].copy(), m.double_buffer[i],
    )
    counts, _ = plain_walk(one, ENDLESS) if full is None else full_walk(one, None)
    found[i, CYCLES] = counts[TOTAL]
    found[i, COMPUTE_CYCLES] = counts[COMPUTE]
    found[i, FILL_DRAIN_CYCLES] = counts[FILL_DRAIN]
    found[i, PASSES] = counts[EVENTS]


@numba.njit(cache=True, error_model="numpy")
def bound_batch(b, m):
    """Count every mapping of a batch, and bound its cycles: int64 (mappings, ``COLUMNS``), -1 where it is not valid.

    Ports of buffers are left out of the bound.
    """
    found = np.full((m.buffer_tile.shape[0], COLUMNS), -1, dtype=np.int64)
    memo = np.full((_SLOTS, 10), -1, dtype=np.int64)
    scratch = _new_scratch(b)
    for i in range(found.shape[0]):
        _count(b, m, i, memo, scratch, found)
    return found


@numba.njit(cache=True, error_model="numpy")
def walk_batch(w, b, m, most_passes, full):
    """As ``bound_batch``, with the cycles of the walk from event to event.

    ``w``: ``WalkInput`` of any mapping with the same bypass. Mappings of more than ``most_passes`` passes keep their
    counts and have -1 cycles. Ports of buffers and rows of the DRAM are in the walk, and not in the bound here.
    ``full``: as ``tiling_cycles`` takes it.
    """
    found = np.full((m.buffer_tile.shape[0], COLUMNS), -1, dtype=np.int64)
    memo = np.full((_SLOTS, 10), -1, dtype=np.int64)
    scratch = _new_scratch(b)
    geometry = b.table[GEOMETRY : GEOMETRY + 2, :4].copy()
    for i in range(found.shape[0]):
        _count(b, m, i, memo, scratch, found)
        if found[i, PASSES] > most_passes:
            found[i, CYCLES] = found[i, FILL_DRAIN_CYCLES] = -1
        elif found[i, PASSES] > 0:
            _walk(w, geometry, m, i, scratch, found, full)
    return found
