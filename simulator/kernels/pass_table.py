"""What the passes of a plain walk cost, as a table: a row for each set of loops that are at their last trips.

Tiles are cut short where loops are at their last trips, so what a pass and its transfers cost depends on that set (a
bit a loop), and on nothing else but where the input's tile lies; of a split layer also on which part of the channels
the buffer tile and the pass are of.
"""

from __future__ import annotations

import numpy as np

from simulator.kernels.channels import stretch_bits
from simulator.kernels.compiled import inner
from simulator.kernels.loop_nest import INPUT, OUTPUT, WEIGHT, C, P, R, S
from simulator.kernels.numbers import named_numbers
from simulator.kernels.occupation import occupation

(BUFFER_LEVEL,) = named_numbers(1, 2)  # of the buffer's loops
# Columns of the table. ``PASS_TAIL``: from the end of a pass on the grid to its results; ``PASS_INPUTS``: bits of the
# input's tile in each row and column that it touches. A row without ``PASS_OCCUPIED`` is not filled.
PASS_OCCUPIED, PASS_COMPUTE, PASS_TAIL, PASS_WEIGHT_BITS, PASS_WEIGHT_CYCLES, PASS_INPUTS = 0, 1, 2, 3, 4, 5
PASS_SUM_BITS, PASS_SUM_CYCLES, PASS_WRITE_BITS, PASS_WRITE_CYCLES, PASS_IS_FINISHED = 6, 7, 8, 9, 10
COLUMNS = 11


@inner(error_model="numpy")
def transfer_cycles(bits, burst, bandwidth):
    """Cycles of the DRAM channel."""
    moved = (bits + burst - 1) // burst * burst
    return (moved + bandwidth - 1) // bandwidth


@inner(error_model="numpy")
def part_of(split, begin, count):
    """Of ``count`` places from ``begin`` on: 0 where all are narrow and full, 2 where all are wide, 1 where the last
    narrow one is among them, which is so of one tile alone."""
    if begin + count < split.narrow_places:
        return 0
    return 2 if begin >= split.narrow_places else 1


@inner(error_model="numpy")
def fill_row(w, last, tile_begin, begin, row):
    """Fill the row of a set of loops at their last trips: ``last``, a bit a loop.

    ``tile_begin``, ``begin``: where the buffer tile and the pass of this row begin along C.
    """
    tile, covered = w.extent.copy(), w.extent.copy()  # extents of the buffer tile and of the pass
    is_finished = 1
    for loop in range(w.loop_dim.shape[0]):
        d, level = w.loop_dim[loop], w.loop_level[loop]
        step = w.grid_tile[d] if level == 1 else w.tile[1, d]
        around = covered[d]
        covered[d] = around - (around - 1) // step * step if last >> loop & 1 else step
        if level == 0:
            tile[d] = covered[d]
        if level < w.place_level[OUTPUT, 0] and d in (C, R, S) and not last >> loop & 1:
            is_finished = 0
    found = np.ones(3, dtype=np.int64)  # bits of weights and inputs, elements of outputs
    for operand in range(3):
        whole_tile = w.place_level[operand, 0] == 1
        length = tile if whole_tile else covered
        for d in range(8):
            if w.relevant[operand, d] and d != C and not (operand == INPUT and d >= P):
                found[operand] *= length[d]
        if operand != OUTPUT:
            first = tile_begin if whole_tile else begin
            found[operand] *= stretch_bits(w.split, operand, w.element_bits[operand], first, length[C])
    begins = np.zeros(8, dtype=np.int64)
    begins[C] = begin
    row[PASS_OCCUPIED], _, row[PASS_COMPUTE], _, _, _, early = occupation(w, begins, covered)
    row[PASS_TAIL] = (w.tail_cycles if w.overlap else 0) - early
    row[PASS_WEIGHT_BITS] = found[WEIGHT]
    row[PASS_WEIGHT_CYCLES] = transfer_cycles(row[PASS_WEIGHT_BITS], w.burst, w.bandwidth)
    row[PASS_INPUTS] = found[INPUT]
    row[PASS_SUM_BITS] = found[OUTPUT] * w.element_bits[OUTPUT]
    row[PASS_SUM_CYCLES] = transfer_cycles(row[PASS_SUM_BITS], w.burst, w.bandwidth)
    row[PASS_WRITE_BITS] = found[OUTPUT] * w.element_bits[3 if is_finished else OUTPUT]
    row[PASS_WRITE_CYCLES] = transfer_cycles(row[PASS_WRITE_BITS], w.burst, w.bandwidth)
    row[PASS_IS_FINISHED] = is_finished


@inner(error_model="numpy")
def loop_of(w, d, level):
    """The event loop over a dimension at a level, -1 if there is none."""
    for loop in range(w.loop_dim.shape[0]):
        if w.loop_dim[loop] == d and w.loop_level[loop] == level:
            return loop
    return -1


@inner(error_model="numpy")
def all_occupied(w, table, whole, cut, inside):
    """Cycles that all passes together hold the grid: each set of loops at their last trips, so often as it comes up.

    Fills the rows of the table. ``whole``, ``cut``, ``inside``: trips of each loop, as ``plain_walk`` has them.
    """
    loops = whole.shape[0]
    total = np.int64(0)
    for last in range(1 << loops):
        count = np.int64(1)
        for loop in range(loops):
            if w.loop_level[loop] == 0:
                is_last = last >> loop & 1
                if not is_last:
                    count *= whole[loop] - 1
                within = inside[loop]
                if within >= 0 and not last >> within & 1:
                    count *= (cut[within] if is_last else whole[within]) - 1
            elif not last >> loop & 1 and loop_of(w, w.loop_dim[loop], 0) < 0:
                count *= whole[loop] - 1
        if count > 0:
            if table[last, PASS_OCCUPIED] == 0:
                fill_row(w, last, np.int64(0), np.int64(0), table[last])
            total += count * table[last, PASS_OCCUPIED]
    return total
