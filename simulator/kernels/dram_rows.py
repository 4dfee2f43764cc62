"""Opening and closing rows of the DRAM (docs/simulator.md, "DRAM rows").

A request visits its elements in the order of their addresses; each time it comes to a row that its bank has not open,
it waits for that row.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from simulator.kernels.channels import bits_before, channel_of
from simulator.kernels.compiled import inner
from simulator.kernels.numbers import named_numbers

RowInput = namedtuple(
    "RowInput",
    [
        "banks", "row_bits",
        "activate_cycles", "precharge_cycles",
        "refresh_interval_cycles",  # 0: no refresh
        "refresh_cycles",
        "first_row",  # (REGIONS,) where each tensor begins
        "shape",  # (3, 5) extents of weights GKCRS, stored inputs GNCHW, outputs GNKPQ; channels are not in places
        "geometry",  # (2, 3) stride, dilation, padding of rows and columns
    ],
)
PARAMETERS, WEIGHTS, INPUTS, OUTPUTS, SUMS, REGIONS = named_numbers(0, 6)
INPUT_ROWS, INPUT_COLUMNS = named_numbers(0, 2)
# The layer's dimensions that weights, inputs and outputs are stored by; of inputs rows and columns follow from P, Q.
STORED_BY = np.array([[0, 2, 3, 6, 7], [0, 1, 3, 4, 5], [0, 1, 2, 4, 5]])


@inner()
def _visit(rows, open_rows, region, first_bit, last_bit):
    """Cycles that the rows of a stretch of bits make the channel wait."""
    cycles = 0
    for row in range(
        rows.first_row[region] + first_bit // rows.row_bits, rows.first_row[region] + last_bit // rows.row_bits + 1
    ):
        bank = row % rows.banks
        if open_rows[bank] != row:
            cycles += rows.activate_cycles + (rows.precharge_cycles if open_rows[bank] >= 0 else 0)
            open_rows[bank] = row
    return cycles


@inner()
def parameter_row_cycles(rows, open_rows, bits):
    """Wait for the rows of the parameters."""
    return _visit(rows, open_rows, PARAMETERS, np.int64(0), bits - 1)


@inner()
def _runs(marks):
    """Begin and end of each stretch of marked places, int64 (stretches, 2)."""
    found = np.empty((marks.shape[0], 2), dtype=np.int64)
    count = 0
    for place in range(marks.shape[0]):
        if marks[place]:
            if place == 0 or not marks[place - 1]:
                found[count, 0] = place
                count += 1
            found[count - 1, 1] = place + 1
    return found[:count]


@inner()
def _touched_marks(rows, axis, position, positions, tap, taps):
    """Which stored rows or columns of the input a tile touches."""
    size = rows.shape[1, 3 + axis]
    marks = np.zeros(size, dtype=np.bool_)
    stride, dilation, padding = rows.geometry[axis]
    for p in range(position, position + positions):
        for r in range(tap, tap + taps):
            place = p * stride + r * dilation - padding
            if 0 <= place < size:
                marks[place] = True
    return marks


@inner()
def tile_row_cycles(rows, split, open_rows, operand, region, begin, length, bits):
    """Wait for the rows of a tile: ``begin``, ``length`` (8,) in the nest's dimensions, ``bits`` of an element (of a
    wide channel, where the layer is split)."""
    shape = rows.shape[operand]
    stored_by = STORED_BY[operand]
    if operand == 1:
        lines = _runs(_touched_marks(rows, INPUT_ROWS, begin[4], length[4], begin[6], length[6]))
        columns = _runs(_touched_marks(rows, INPUT_COLUMNS, begin[5], length[5], begin[7], length[7]))
    else:
        lines, columns = np.empty((1, 2), dtype=np.int64), np.empty((1, 2), dtype=np.int64)
        for which, place in ((lines, 3), (columns, 4)):
            d = stored_by[place]
            which[0, 0], which[0, 1] = begin[d], begin[d] + length[d]
    cycles = 0
    whole_lines = columns.shape[0] == 1 and columns[0, 1] - columns[0, 0] == shape[4]
    whole_planes = whole_lines and lines.shape[0] == 1 and lines[0, 1] - lines[0, 0] == shape[3]
    a, b, c = stored_by[0], stored_by[1], stored_by[2]
    begin_c, end_c = begin[c], begin[c] + length[c]
    narrow_channels, narrow_bits = 0, bits
    if operand != 2:
        begin_c, end_c = channel_of(split, begin_c), channel_of(split, end_c)
        narrow_channels, narrow_bits = split.narrow_channels, split.narrow_bits[operand]
    area = shape[3] * shape[4]
    whole = area * bits_before(narrow_channels, narrow_bits, bits, shape[2])
    for i in range(begin[a], begin[a] + length[a]):
        for j in range(begin[b], begin[b] + length[b]):
            origin = (i * shape[1] + j) * whole
            if whole_planes:  # channels lie behind one another
                first = origin + area * bits_before(narrow_channels, narrow_bits, bits, begin_c)
                end = origin + area * bits_before(narrow_channels, narrow_bits, bits, end_c)
                last = end - (narrow_bits if end_c <= narrow_channels else bits)
                cycles += _visit(rows, open_rows, region, first, last)
                continue
            for channel in range(begin_c, end_c):
                plane = origin + area * bits_before(narrow_channels, narrow_bits, bits, channel)
                width = narrow_bits if channel < narrow_channels else bits
                for run in range(lines.shape[0]):
                    if whole_lines:
                        first, end = lines[run, 0] * shape[4], lines[run, 1] * shape[4]
                        cycles += _visit(rows, open_rows, region, plane + first * width, plane + (end - 1) * width)
                        continue
                    for line in range(lines[run, 0], lines[run, 1]):
                        at = plane + line * shape[4] * width
                        for stretch in range(columns.shape[0]):
                            first, end = columns[stretch, 0], columns[stretch, 1]
                            cycles += _visit(rows, open_rows, region, at + first * width, at + (end - 1) * width)
    return cycles
