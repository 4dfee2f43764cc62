"""Exact cycles of many tilings of one layer: ``tile_walk`` without a plan for each.

The search asks for thousands of tilings that differ in tiles, unrolling and loop order only; everything else is taken
from the walk of one of them.
"""

from __future__ import annotations

import numba
import numpy as np

from simulator.kernels.extents import nested_starts, tile_starts, touched_counts
from simulator.kernels.tile_walk import INPUT, TOTAL, P, Q, R, S, WalkInput, walk


@numba.njit(cache=True)
def _touched(w, geometry, axis, first, second, outer, inner, nested):
    """Distinct rows (axis 0) or columns (axis 1) of pairs of tiles."""
    stride, dilation, padding, size = geometry[axis]
    if nested:
        one = nested_starts(w.extent[first], outer[first], inner[first])
        other = nested_starts(w.extent[second], outer[second], inner[second])
    else:
        one, other = tile_starts(w.extent[first], outer[first]), tile_starts(w.extent[second], outer[second])
    return touched_counts(one, other, stride, dilation, padding, size)


@numba.njit(cache=True)
def tiling_cycles(w, geometry, dram_order, buffer_order, buffer_tile, register_tile, unroll, doubled, most_events):
    """Cycles of each tiling; -1 where it has more than ``most_events`` events and was not walked.

    ``w``: walk input of any tiling with the same bypass; ``geometry`` (2, 4): stride, dilation, padding, stored size
    of both directions; ``dram_order``, ``buffer_order`` (8,): dimensions, outermost first; ``buffer_tile``,
    ``register_tile``, ``unroll`` (tilings, 8); ``doubled`` (tilings, 3).
    """
    count = buffer_tile.shape[0]
    cycles = np.empty(count, dtype=np.int64)
    nothing = np.zeros((1, 1), dtype=np.int64)
    for i in range(count):
        grid_tile = np.empty(8, dtype=np.int64)
        dram_trips = np.empty(8, dtype=np.int64)
        buffer_trips = np.empty(8, dtype=np.int64)
        inner_trips = np.empty(8, dtype=np.int64)
        for d in range(8):
            grid_tile[d] = register_tile[i, d] * unroll[i, d]
            dram_trips[d] = -(-w.extent[d] // buffer_tile[i, d])
            buffer_trips[d] = -(-buffer_tile[i, d] // grid_tile[d])
            inner_trips[d] = 1
        loop_dim = np.empty(16, dtype=np.int64)
        loop_is_buffer = np.zeros(16, dtype=np.bool_)
        loops = 0
        events = 1.0
        for d in dram_order:
            if dram_trips[d] > 1:
                loop_dim[loops] = d
                loops += 1
                events *= dram_trips[d]
        outer_loops = loops
        if w.bypass >= 0:
            for d in buffer_order:
                if buffer_trips[d] > 1 and w.relevant[w.bypass, d]:
                    loop_dim[loops] = d
                    loop_is_buffer[loops] = True
                    loops += 1
                    inner_trips[d] = buffer_trips[d]
                    events *= buffer_trips[d]
        if events > most_events:
            cycles[i] = -1
            continue
        buffer_rows = _touched(w, geometry, 0, P, R, buffer_tile[i], grid_tile, False)
        buffer_columns = _touched(w, geometry, 1, Q, S, buffer_tile[i], grid_tile, False)
        grid_rows, grid_columns = nothing, nothing
        if w.bypass == INPUT:
            grid_rows = _touched(w, geometry, 0, P, R, buffer_tile[i], grid_tile, True)
            grid_columns = _touched(w, geometry, 1, Q, S, buffer_tile[i], grid_tile, True)
        one = WalkInput(
            loop_dim[:loops], loop_is_buffer[:loops], w.extent, buffer_tile[i], grid_tile, unroll[i], inner_trips,
            w.streamed, w.relevant, buffer_rows, buffer_columns, grid_rows, grid_columns, w.element_bits, w.bypass,
            loops > outer_loops, doubled[i], w.parameter_bits, w.step_cycles, w.load_cycles, w.tail_cycles,
            w.drain_cycles, w.overlap, w.preload, w.folds_on, w.bandwidth, w.latency, w.burst,
            w.pass_compute, w.pass_occupied, w.pass_early,
        )
        cycles[i] = walk(one)[TOTAL]
    return cycles
