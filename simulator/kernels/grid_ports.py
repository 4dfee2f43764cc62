"""How long one pass of the grid needs the ports of its buffers (docs/simulator.md, "Ports")."""

from __future__ import annotations

from simulator.kernels.channels import stretch_bits
from simulator.kernels.compiled import inner
from simulator.kernels.loop_nest import INPUT, OUTPUT, WEIGHT, C, P, R, S, tile_number
from simulator.kernels.numbers import named_numbers

READ, WRITE = named_numbers(0, 2)


@inner()
def port_of(w, way, operand, place, run):
    """Port of the bank in which a run of an operand lies; -1 where it is not limited."""
    base = w.port[way, operand, place]
    if base < 0:
        return base
    parity = run % 2 if w.double_buffer[operand, place] else 0
    return base + (w.slot[operand, place] + parity) % w.banks[operand, place]


@inner()
def _register_tiles(w, index, level, d):
    """First, and one beyond the last, of the register tiles that a pass covers along a dimension."""
    if w.trips[level, d] > 1:
        first = tile_number(w, index, level + 1, d)
        return first, first + 1
    first = tile_number(w, index, level, d) * w.register_tiles[d]
    return first, first + w.register_tiles[d]


@inner()
def _fetched_elements(w, operand, index, length):
    """Elements of an operand in the register tiles of a pass, each tile once."""
    levels = w.tile.shape[0] - 1
    count = 1
    for d in range(8):
        if w.relevant[operand, d] and not (operand == INPUT and d >= P):
            count *= length[levels + 1, d]
    if operand == INPUT:
        for axis in range(2):
            first, last = _register_tiles(w, index, levels, P + axis)
            tap, last_tap = _register_tiles(w, index, levels, R + axis)
            start, width = w.prefix_start[axis], w.prefix_width[axis]
            count *= (
                w.prefix[start + last * width + last_tap] - w.prefix[start + first * width + last_tap]
                - w.prefix[start + last * width + tap] + w.prefix[start + first * width + tap]
            )
    return count


@inner()
def port_cycles(w, run, index, begin, length, hold):
    """Set how many cycles each operand holds each port in the present pass: ``hold`` (ports, 3)."""
    levels = w.tile.shape[0] - 1
    hold[:] = 0
    for operand in (WEIGHT, INPUT, OUTPUT):
        place = w.place_count[operand] - 1
        if w.place_level[operand, place] > levels:
            continue
        read = port_of(w, READ, operand, place, run[operand, place])
        write = port_of(w, WRITE, operand, place, run[operand, place])
        if read < 0 and (write < 0 or operand != OUTPUT):
            continue
        visits = 1
        for d in range(8):
            if not w.relevant[operand, d] and not w.held[operand, d]:
                visits *= -(-length[levels + 1, d] // w.grid_tile[d])
        bits = _fetched_elements(w, operand, index, length)
        if operand == OUTPUT:
            bits *= w.element_bits[OUTPUT]
        else:
            first, count = begin[levels + 1, C], length[levels + 1, C]
            bits = bits // count * stretch_bits(w.split, operand, w.element_bits[operand], first, count)
        if operand == OUTPUT:
            if write >= 0:
                hold[write, operand] += -(-bits * visits // w.width[WRITE, operand, place])
            opening = True  # the very first visit has nothing to read back
            for level in range(levels + 1):
                for d in (C, R, S):
                    if index[level, d] > 0:
                        opening = False
            visits -= opening
        if read >= 0:
            hold[read, operand] += -(-bits * visits // w.width[READ, operand, place])
