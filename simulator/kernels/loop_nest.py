"""The loops of a layer's tile loop: trip numbers, the extents of the tiles they stand for, and what tiles hold.

Levels count from the outside in: tile 0 is the layer, tiles 1 … L those of the buffer levels, tile L + 1 what one pass
of the grid covers. Loop level l cuts tile l into tiles l + 1.
"""

from __future__ import annotations

from simulator.kernels.channels import stretch_bits
from simulator.kernels.compiled import inner
from simulator.kernels.numbers import named_numbers

# Dimensions in the order of simulator.layer.DIMS, operands in that of simulator.layer.OPERANDS.
G, N, K, C, P, Q, R, S = range(8)
WEIGHT, INPUT, OUTPUT = named_numbers(0, 3)


@inner()
def set_extents(w, index, begin, length):
    """Set where the present tiles begin and how far they extend, ``begin`` and ``length`` (L + 2, 8), from the trip
    numbers ``index`` (L + 1, 8)."""
    levels = w.tile.shape[0] - 1
    for d in range(8):
        at = 0
        left = w.extent[d]
        for level in range(levels):
            step = w.tile[level + 1, d]
            at += index[level, d] * step
            left = min(step, left - index[level, d] * step)
            begin[level + 1, d] = at
            length[level + 1, d] = left
        if w.trips[levels, d] > 1:
            at += index[levels, d] * w.grid_tile[d]
            left = min(w.grid_tile[d], left - index[levels, d] * w.grid_tile[d])
        begin[levels + 1, d] = at
        length[levels + 1, d] = left


@inner()
def advance(w, index, length):
    """Step the odometer of event loops. Returns the place of the loop that went on, -1 where there is no next event.

    ``length``: extents of the present tiles (``set_extents``).
    """
    levels = w.tile.shape[0] - 1
    for loop in range(w.loop_dim.shape[0] - 1, -1, -1):
        d, level = w.loop_dim[loop], w.loop_level[loop]
        step = w.grid_tile[d] if level == levels else w.tile[level + 1, d]
        whole = w.extent[d] if level == 0 else length[level, d]
        index[level, d] += 1
        if index[level, d] * step < whole:
            return loop
        index[level, d] = 0
    return -1


@inner()
def tile_number(w, index, level, d):
    """Number of the present tile of a level among all tiles along a dimension, as ``extents.nested_starts`` counts."""
    number = index[0, d]
    for loop_level in range(1, level):
        number = number * w.trips[loop_level, d] + index[loop_level, d]
    return number


@inner()
def touched(w, axis, level, position, tap):
    """Distinct input rows (axis 0) or columns (axis 1) of a pair of tiles of a level, by their numbers."""
    return w.touched[w.touched_start[axis, level] + position * w.touched_width[axis, level] + tap]


@inner()
def tile_elements(w, operand, level, index, length):
    """Distinct stored elements of an operand's present tile at a level."""
    count = 1
    for d in range(8):
        if w.relevant[operand, d] and not (operand == INPUT and d >= P):
            count *= length[level, d]
    if operand == INPUT:
        for axis in range(2):
            count *= touched(
                w, axis, level, tile_number(w, index, level, P + axis), tile_number(w, index, level, R + axis)
            )
    return count


@inner()
def tile_bits(w, operand, level, index, begin, length):
    """Stored bits of the present tile of weights or inputs at a level, in the formats of its channels."""
    elements = tile_elements(w, operand, level, index, length)
    # Everything but the channels is a factor; a tile has at least one place along C.
    channels = stretch_bits(w.split, operand, w.element_bits[operand], begin[level, C], length[level, C])
    return elements // length[level, C] * channels


@inner()
def same_tile(w, operand, level, index, other):
    """Whether two sets of trip numbers stand for the same tile of an operand at a level."""
    for d in range(8):
        if w.relevant[operand, d]:
            for loop_level in range(level):
                if index[loop_level, d] != other[loop_level, d]:
                    return False
    return True
