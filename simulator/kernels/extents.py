"""How many distinct input rows (or columns) a tile touches.

Along one spatial direction a tile of output positions p and kernel taps r touches the stored positions
``p·stride + r·dilation − padding`` that lie in ``[0, size)``. Neighbouring p and r often touch the same one.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True)
def tile_starts(extent, tile):
    """Starts of the tiles of a dimension, and its extent at the end (int64)."""
    count = -(-extent // tile)
    starts = np.empty(count + 1, dtype=np.int64)
    for place in range(count):
        starts[place] = place * tile
    starts[count] = extent
    return starts


@numba.njit(cache=True)
def nested_starts(extent, outer, inner):
    """Starts of the inner tiles inside each outer tile, ⌈outer/inner⌉ entries an outer tile, and the extent (int64).

    An outer tile cut short has fewer inner tiles; the entries that it lacks are empty tiles at its end.
    """
    inside = -(-outer // inner)
    count = -(-extent // outer) * inside
    starts = np.empty(count + 1, dtype=np.int64)
    for place in range(count):
        begin = place // inside * outer
        starts[place] = min(begin + place % inside * inner, begin + outer, extent)
    starts[count] = extent
    return starts


@numba.njit(cache=True)
def touched_counts(position_tile, tap_tile, stride, dilation, padding, size):
    """Distinct stored positions of every pair of an output tile and a tap tile.

    ``position_tile`` and ``tap_tile`` list the first element of each tile, and, last, the extent. Returns an
    int64 array of shape (output tiles, tap tiles).
    """
    rows = position_tile.shape[0] - 1
    columns = tap_tile.shape[0] - 1
    counts = np.zeros((rows, columns), dtype=np.int64)
    stamp = np.full(size, -1, dtype=np.int64)
    for i in range(rows):
        for j in range(columns):
            mark = i * columns + j
            found = 0
            for p in range(position_tile[i], position_tile[i + 1]):
                base = p * stride - padding
                for r in range(tap_tile[j], tap_tile[j + 1]):
                    where = base + r * dilation
                    if 0 <= where < size and stamp[where] != mark:
                        stamp[where] = mark
                        found += 1
            counts[i, j] = found
    return counts
