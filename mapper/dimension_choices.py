"""The ways to cut one dimension that are worth trying: factors on axes and lanes, register tiles, tiles of each level.

The space (``candidates`` names it in every certificate):

- a factor on an axis of size s is min(n, ⌊s/k⌋) for some k, or the smallest factor with as many steps: any other
  leaves room on the axis that nothing can use;
- a buffer tile is the smallest one for its number of trips, or that rounded up to whole register tiles;
- with several levels of buffers, an outer tile is the smallest one for its number of trips, or that rounded up to
  whole inner ones; where a dimension has more than ``MOST_TILES`` such tiles, those of 1, 2, 3, 4, 6, 8, 12, 16, …
  trips;
- register tiles come from ``REGISTER_TILES``, or are the whole dimension;
- along the channels of a split layer factors and tiles are those of all places, and also those of the narrow places
  and of the wide ones as if they were alone: they let the border between both fall between tiles or steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.layer import Dim

REGISTER_TILES = (1, 2, 4, 8, 16)
MOST_TILES = 12
Ints = npt.NDArray[np.int64]
Axes = tuple[tuple[int, tuple[Dim, ...]], ...]  # size, and the dimensions that may lie along it


@dataclass(frozen=True)
class DimChoices:
    """Ways to cut one dimension, one a row.

    ``axis_factors`` has shape (rows, axes), the last axis being the lanes; ``buffer_tiles`` (rows, levels of buffers),
    outermost first; ``register_tile`` (rows,).
    """

    dim: Dim
    extent: int
    axis_factors: Ints
    register_tile: Ints
    buffer_tiles: Ints

    @property
    def levels(self) -> int:
        """Levels of buffers."""
        return int(self.buffer_tiles.shape[1])

    @property
    def buffer_tile(self) -> Ints:
        """Innermost buffer tile."""
        innermost: Ints = self.buffer_tiles[:, -1]
        return innermost

    @property
    def unroll(self) -> Ints:
        """Elements that the grid holds at once."""
        return np.asarray(self.axis_factors.prod(axis=1), dtype=np.int64)

    @property
    def grid_tile(self) -> Ints:
        """Register tile of the whole grid."""
        return self.unroll * self.register_tile

    def lengths(self, level: int) -> list[tuple[Ints, Ints]]:
        """Extents that the tiles of a level (0: the layer) have, each with the number of tiles that have it."""
        lengths = [(np.full(len(self.buffer_tiles), self.extent), np.ones(len(self.buffer_tiles), dtype=np.int64))]
        for tile in self.buffer_tiles[:, :level].T:
            whole = sum(count * (length // tile) for length, count in lengths)
            lengths = [(tile, np.asarray(whole)), *((length % tile, count) for length, count in lengths)]
        return lengths

    def tiles(self, inner: Ints) -> Ints:
        """Σ over innermost buffer tiles of ⌈extent of the tile / inner⌉."""
        return np.asarray(sum(count * -(-length // inner) for length, count in self.lengths(self.levels)))

    def tile_count(self, level: int) -> Ints:
        """Tiles of a level of buffers: trips of all loops outside it."""
        lengths = self.lengths(level)
        return np.asarray(sum(count * np.minimum(length, 1) for length, count in lengths))

    def last_tile(self, level: int) -> Ints:
        """Extent of the last tile of a level."""
        last = np.full(len(self.buffer_tiles), self.extent)
        for tile in self.buffer_tiles[:, :level].T:
            last = last - (-(-last // tile) - 1) * tile
        return last

    def trips(self, level: int) -> Ints:
        """Nominal trips of the loop inside a level's tile (0: the layer) over the next smaller tiles."""
        outer = self.buffer_tiles[:, level - 1] if level else self.extent
        inner = self.buffer_tiles[:, level] if level < self.levels else self.grid_tile
        return np.asarray(-(-outer // inner))

    def single_trip(self, level: int) -> npt.NDArray[np.bool_]:
        """Rows in which the loop inside a level's tile (0: the layer) makes one trip."""
        return np.asarray(self.trips(level) == 1)

    def take(self, rows: npt.NDArray[np.bool_] | Ints) -> DimChoices:
        """Keep some rows."""
        return DimChoices(
            self.dim, self.extent, self.axis_factors[rows], self.register_tile[rows], self.buffer_tiles[rows]
        )


@dataclass(frozen=True)
class OwnNumbers:
    """Numbers that are candidates for one dimension because the user named them: an axis's factors, and tiles."""

    axis_factors: tuple[tuple[int, ...], ...] = ()
    buffer_tiles: tuple[int, ...] = ()


def axis_factors(extent: int, size: int) -> list[int]:
    """Factors of one dimension on an axis that are worth trying (module docstring).

    >>> axis_factors(56, 16)
    [1, 2, 3, 4, 5, 8, 14]
    """
    found = set()
    for share in range(1, size + 1):
        factor = min(extent, size // share)
        found.add(-(-extent // -(-extent // factor)))
    return sorted(found)


def smallest_tiles(extent: int) -> list[int]:
    """Tiles of a dimension of which no smaller one makes as few trips.

    >>> smallest_tiles(7)
    [1, 2, 3, 4, 7]
    """
    smallest = {-(-extent // trips) for trips in range(1, min(extent, int(2 * extent**0.5) + 2) + 1)}
    smallest |= {tile for tile in range(1, int(extent**0.5) + 2) if tile <= extent}
    return sorted({-(-extent // -(-extent // tile)) for tile in smallest})


def few_smallest_tiles(extent: int) -> list[int]:
    """``smallest_tiles``, of many those of 1, 2, 3, 4, 6, 8, 12, 16, … trips.

    >>> few_smallest_tiles(512)
    [1, 2, 3, 4, 6, 8, 11, 16, 22, 32, 43, 64, 86, 128, 171, 256, 512]
    """
    found = smallest_tiles(extent)
    if len(found) > MOST_TILES:
        trips = {min(extent, times << power) for power in range(extent.bit_length()) for times in (1, 3)}
        found = sorted({-(-extent // -(-extent // -(-extent // count))) for count in trips})
    return found


def buffer_tiles(extent: int, grid_tile: int, own: tuple[int, ...] = ()) -> list[int]:
    """Buffer tiles that are worth trying: smallest for their trips, ``own``, and these rounded up to register tiles.

    >>> buffer_tiles(7, 2)
    [1, 2, 3, 4, 7]
    """
    return _with_rounded(extent, sorted({*smallest_tiles(extent), *own}), grid_tile)


def _with_rounded(extent: int, tiles: list[int], inner: int) -> list[int]:
    """Tiles, and the same rounded up to whole inner ones."""
    return sorted({*tiles, *(min(extent, -(-tile // inner) * inner) for tile in tiles)})


def nested_tiles(extent: int, grid_tile: int, levels: int, own: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Tiles of several levels of buffers that are worth trying, one inside the other, outermost first.

    ``own`` tiles are tried at every level.

    >>> nested_tiles(3, 1, 2)
    [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (3, 3)]
    """
    if levels == 1:
        return [(tile,) for tile in buffer_tiles(extent, grid_tile, own)]
    smallest = sorted({*few_smallest_tiles(extent), *own})
    nests: list[tuple[int, ...]] = [(tile,) for tile in _with_rounded(extent, smallest, grid_tile)]
    for _ in range(levels - 1):
        nests = [
            (tile, *nest) for nest in nests
            for tile in _with_rounded(extent, [tile for tile in smallest if tile >= nest[0]], nest[0])
        ]
    return nests


def dimension_choices(
    dim: Dim, extent: int, axes: Axes, register_tiles: tuple[int, ...], levels: int = 1, border: int = 0,
    own: OwnNumbers | None = None,
) -> DimChoices:
    """All ways to cut one dimension on axes given as (size, dimensions allowed), for some levels of buffers; with
    ``own`` numbers too. ``border``: where the narrow places end along a dimension that is split."""
    parts = [part for part in (border, extent - border) if border and part]
    per_axis = [
        sorted({factor for whole in (extent, *parts) for factor in axis_factors(whole, size)}) if dim in allowed
        else [1]
        for size, allowed in axes
    ]
    of_parts = {tile for part in parts for tile in (smallest_tiles if levels == 1 else few_smallest_tiles)(part)}
    own_tiles = tuple(sorted({*of_parts, *(() if own is None else own.buffer_tiles)}))
    if own is not None:
        per_axis = [sorted({*mine, *more}) for mine, more in zip(per_axis, own.axis_factors, strict=True)]
    rows: list[tuple[int, ...]] = []
    nests: dict[int, list[tuple[int, ...]]] = {}
    for factors in itertools.product(*per_axis):
        unroll = int(np.prod(factors))
        # A factor that could be dropped without losing a step is not worth its place.
        if own is None and any(f > 1 and unroll // f >= extent for f in factors):
            continue
        for register in sorted({*register_tiles, extent} if extent <= max(register_tiles) else set(register_tiles)):
            if register > 1 and unroll * (register - 1) >= extent:
                continue
            held = unroll * register
            if held not in nests:
                nests[held] = nested_tiles(extent, held, levels, own_tiles)
            for nest in nests[held]:
                if nest[-1] > unroll * (register - 1) and (nest[-1] >= unroll or nest[-1] == extent):
                    rows.append((*factors, register, *nest))
    table = np.array(rows, dtype=np.int64)
    return DimChoices(dim, extent, table[:, : len(axes)], table[:, len(axes)], table[:, len(axes) + 1 :])


ChoicesOf = Callable[[Dim, int, Axes, tuple[int, ...], int, int], DimChoices]
