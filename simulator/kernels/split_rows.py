"""What rows of tiles along the channels of a split layer hold and take: columns of the search's closed form.

The same as ``simulator.plan.Plan`` counts for one mapping ("Layers split by channel" in docs/simulator.md), for many
ways to cut the places along C.
"""

from __future__ import annotations

import numba
import numpy as np

from simulator.kernels.extents import nested_starts


@numba.njit(cache=True)
def largest_tiles(bits_before, tiles):
    """The most bits that a tile holds, for each of some nests of tiles: (rows,).

    ``bits_before`` (places + 1,): bits of all places before one; ``tiles`` (rows, levels): extents, outermost first.
    """
    extent = bits_before.shape[0] - 1
    found = np.zeros(tiles.shape[0], dtype=np.int64)
    for row in range(tiles.shape[0]):
        starts = nested_starts(extent, tiles[row])
        for tile in range(starts.shape[0] - 1):
            found[row] = max(found[row], bits_before[starts[tile + 1]] - bits_before[starts[tile]])
    return found


@numba.njit(cache=True)
def step_cycles(extent, narrow_places, narrow_cycles, wide_cycles, tiles, unroll, lanes):
    """Time of the steps along C of each of some nests of tiles, and of the PEs at work in them: (rows, 3).

    Columns: cycles of all steps; cycles of PEs with a product of the wide part; of PEs with narrow products alone.
    ``tiles`` (rows, levels), ``unroll`` and ``lanes`` (rows,): places that the grid, and a PE, hold at once.
    """
    found = np.zeros((tiles.shape[0], 3), dtype=np.int64)
    for row in range(tiles.shape[0]):
        starts = nested_starts(extent, tiles[row])
        for tile in range(starts.shape[0] - 1):
            for first in range(starts[tile], starts[tile + 1], unroll[row]):
                last = min(first + unroll[row], starts[tile + 1])
                step = narrow_cycles if last <= narrow_places else wide_cycles
                pes = -(-(last - first) // lanes[row])
                narrow = pes if last <= narrow_places else max(0, narrow_places - first) // lanes[row]
                found[row, 0] += step
                found[row, 1] += (pes - narrow) * step
                found[row, 2] += narrow * step
    return found
