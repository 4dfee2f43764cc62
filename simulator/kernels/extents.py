"""How many distinct input rows (or columns) a tile touches.

Along one spatial direction a tile of output positions p and kernel taps r touches the stored positions
``p·stride + r·dilation − padding`` that lie in ``[0, size)``. Neighbouring p and r often touch the same one.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True)
def nested_starts(extent, tiles):
    """Starts of the innermost of nested tiles, and the extent (int64).

    ``tiles``: extents of the tiles, outermost first. Each tile has as many entries as a whole one has inner tiles;
    where it is cut short, the entries that it lacks are empty tiles at its end.
    """
    count = -(-extent // tiles[0])
    for level in range(1, tiles.shape[0]):
        count *= -(-tiles[level - 1] // tiles[level])
    starts = np.empty(count + 1, dtype=np.int64)
    for place in range(count):
        begin = 0
        end = extent
        rest, inside = place, count
        around = extent
        for tile in tiles:
            inside //= -(-around // tile)
            begin = min(begin + rest // inside * tile, end)
            end = min(begin + tile, end)
            rest %= inside
            around = tile
        starts[place] = begin
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


@numba.njit(cache=True)
def touched_by_nests(position_extent, tap_extent, position_tiles, tap_tiles, stride, dilation, padding, size):
    """Distinct stored positions that the pairs of tiles of many nests touch, ``touched_counts`` of each in short.

    ``position_tiles``, ``tap_tiles`` (nests, levels): extents of nested tiles, outermost first. Returns int64 (nests,
    4): the sum over all pairs of innermost tiles, the most, those of the first pair, and the fewest.
    """
    found = np.empty((position_tiles.shape[0], 4), dtype=np.int64)
    for nest in range(found.shape[0]):
        touched = touched_counts(
            nested_starts(position_extent, position_tiles[nest]), nested_starts(tap_extent, tap_tiles[nest]),
            stride, dilation, padding, size,
        )
        found[nest, 0], found[nest, 1] = touched.sum(), touched.max()
        found[nest, 2], found[nest, 3] = touched[0, 0], touched.min()
    return found
