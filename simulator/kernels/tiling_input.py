"""Lays a tiling out for the walk without a plan, on machines with one level of buffers (``simulator.walk_input``).

Whoever walks thousands of mappings of a layer takes from one of them what they all share.
"""

from __future__ import annotations

import numpy as np

from simulator.kernels.compiled import inner
from simulator.kernels.extents import nested_starts, touched_counts
from simulator.kernels.transfers import WalkInput


@inner()
def _touched(w, geometry, axis, tiles):
    """Distinct rows (axis 0) or columns (axis 1) of pairs of nested tiles; ``tiles`` (levels, 8)."""
    stride, dilation, padding, size = geometry[axis]
    position = nested_starts(w.extent[4 + axis], np.ascontiguousarray(tiles[:, 4 + axis]))
    tap = nested_starts(w.extent[6 + axis], np.ascontiguousarray(tiles[:, 6 + axis]))
    return touched_counts(position, tap, stride, dilation, padding, size)


@inner()
def _tables(w, geometry, tiles, level, start, width):
    """Both directions' table of input extents, one behind the other; notes where they begin and their width."""
    rows, columns = [_touched(w, geometry, axis, tiles) for axis in range(2)]
    start[0, level], width[0, level] = 0, rows.shape[1]
    start[1, level], width[1, level] = rows.size, columns.shape[1]
    return np.concatenate((rows.ravel(), columns.ravel()))


@inner()
def _prefix(w, geometry, tiles, start, width):
    """Sums of the register tiles' rows and columns over rectangles of tiles (``simulator.walk_input``)."""
    found = [np.zeros(0, dtype=np.int64)]
    at = 0
    for axis in range(2):
        counts = _touched(w, geometry, axis, tiles)
        sums = np.zeros((counts.shape[0] + 1, counts.shape[1] + 1), dtype=np.int64)
        for i in range(counts.shape[0]):
            for j in range(counts.shape[1]):
                sums[i + 1, j + 1] = counts[i, j] + sums[i, j + 1] + sums[i + 1, j] - sums[i, j]
        start[axis], width[axis] = at, sums.shape[1]
        at += sums.size
        found.append(sums.ravel())
    return np.concatenate((found[1], found[2]))


@inner()
def bypassing(w):
    """The operand that bypasses its buffer, -1 if none does."""
    for operand in range(3):
        if w.place_level[operand, 0] == 2:
            return operand
    return -1


@inner()
def tiling_input(w, geometry, dram_order, buffer_order, buffer_tile, register_tile, unroll, doubled):
    """Lay a tiling out: a ``WalkInput``.

    ``w``: that of any tiling with the same bypass; ``geometry`` (2, 4): stride, dilation, padding, stored size of both
    directions; ``dram_order``, ``buffer_order`` (loops,): dimensions, outermost first; ``buffer_tile``,
    ``register_tile``, ``unroll`` (8,); ``doubled`` (3,).
    """
    bypass = bypassing(w)
    tile = np.empty((2, 8), dtype=np.int64)
    tile[0] = w.extent
    tile[1] = buffer_tile
    grid_tile = register_tile * unroll
    trips = np.ones((2, 8), dtype=np.int64)
    trips[0] = -(-w.extent // buffer_tile)
    register_tiles = -(-buffer_tile // grid_tile)
    loop_dim = np.empty(16, dtype=np.int64)
    loop_level = np.zeros(16, dtype=np.int64)
    loops = 0
    depth = np.zeros((3, 1), dtype=np.int64)
    for d in dram_order:
        if trips[0, d] > 1:
            loop_dim[loops] = d
            loops += 1
            for operand in range(3):
                if w.relevant[operand, d]:
                    depth[operand, 0] = loops
    if bypass >= 0:
        for d in buffer_order:
            if register_tiles[d] > 1 and w.relevant[bypass, d]:
                loop_dim[loops] = d
                loop_level[loops] = 1
                loops += 1
                trips[1, d] = register_tiles[d]
                depth[bypass, 0] = -1
    if bypass >= 0 and depth[bypass, 0] < 0:
        depth[bypass, 0] = loops
    # Buffer loops inside the innermost one relevant to an operand are those across which registers hold it.
    held = np.zeros((3, 8), dtype=np.bool_)
    for operand in range(3):
        for place in range(buffer_order.shape[0] - 1, -1, -1):
            d = buffer_order[place]
            if register_tiles[d] > 1:
                if not w.in_registers[operand] or w.relevant[operand, d] or trips[1, d] > 1:
                    break
                held[operand, d] = True
    level = w.place_level[1, 0]
    nest = np.empty((2, 8), dtype=np.int64)
    nest[0], nest[1] = buffer_tile, grid_tile
    start, width = np.zeros((2, 3), dtype=np.int64), np.zeros((2, 3), dtype=np.int64)
    touched = _tables(w, geometry, nest[:level], level, start, width)
    prefix, prefix_start, prefix_width = w.prefix, np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)
    if w.prefix.size > 0:
        prefix = _prefix(w, geometry, nest, prefix_start, prefix_width)
    double_buffer = np.empty((3, 1), dtype=np.bool_)
    double_buffer[:, 0] = doubled
    slot = np.zeros((3, 1), dtype=np.int64)
    for operand in range(3):
        for before in range(3):
            if w.keeps_before[operand, before]:
                slot[operand, 0] += 2 if double_buffer[before, 0] else 1
    return WalkInput(
        loop_dim[:loops], loop_level[:loops], w.extent, tile, trips, grid_tile, unroll, w.streamed,
        w.relevant, touched, start, width, w.element_bits, w.in_registers, w.place_count,
        w.place_level, depth, w.place_memory, w.place_latency, w.place_bits, double_buffer, slot, w.keeps_before,
        w.banks, w.port, w.width, w.port_count,
        w.memory_count, w.grid_ports, held, register_tiles, prefix, prefix_start, prefix_width,
        w.parameter_bits, w.step_cycles, w.load_cycles, w.tail_cycles, w.drain_cycles, w.overlap, w.preload,
        w.folds_on, w.pass_compute, w.pass_occupied, w.pass_early, w.bandwidth, w.latency, w.burst, w.split, w.rows,
        w.has_rows,
    )
