"""What the search may choose: for each block of dimensions, a list of ways to tile and unroll it.

A *block* is a set of dimensions whose costs cannot be told apart: G, N, K, C alone, and the pairs (P, R) and (Q, S),
because a tile of output rows and a tile of kernel taps touch input rows together. A row of a block fixes, for
its dimensions, the factor on every axis and on the lanes, the register tile and the buffer tile, and carries the
integers that the cost is made of. The cost of a mapping is then a sum of products with one factor a block
(``cost_terms``), which is what makes the search small.

The space (it is named in every certificate):

- a factor on an axis of size s is min(n, ⌊s/k⌋) for some k, or the smallest factor with as many steps: any other
  leaves room on the axis that nothing can use;
- a buffer tile is the smallest one for its number of trips, or that rounded up to whole register tiles;
- register tiles come from ``REGISTER_TILES``, or are the whole dimension;
- of two ways to cut a dimension of which one is equal or worse in everything that a cost or limit counts, only the
  other stays.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.accelerator import LANES, Accelerator, MulticastPassing
from simulator.kernels import nested_starts, non_dominated, touched_counts
from simulator.layer import OPERANDS, RELEVANT_DIMS, Dim, Layer
from simulator.precision import LayerPrecision

SPACE = (
    "axis factors min(n, floor(size/k)) or smaller with as many steps; buffer tiles ceil(n/T) or these rounded up to "
    "register tiles; register tiles 1, 2, 4, 8, 16 or the whole; of two ways to cut a dimension of which one needs no "
    "less of anything that is counted, only the other; two orders of the DRAM loops for each operand that they hold, "
    "one of the buffer loops; groups outermost"
)
REGISTER_TILES = (1, 2, 4, 8, 16)
BLOCKS: tuple[tuple[Dim, ...], ...] = (("G",), ("N",), ("K",), ("C",), ("P", "R"), ("Q", "S"))
Ints = npt.NDArray[np.int64]
Axes = tuple[tuple[int, tuple[Dim, ...]], ...]  # size, and the dimensions that may lie along it


@dataclass(frozen=True)
class DimChoices:
    """Ways to cut one dimension, one a row.

    ``axis_factors`` has shape (rows, axes), the others (rows,). The last axis is the lanes.
    """

    dim: Dim
    extent: int
    axis_factors: Ints
    register_tile: Ints
    buffer_tile: Ints

    @property
    def unroll(self) -> Ints:
        """Elements that the grid holds at once."""
        return np.asarray(self.axis_factors.prod(axis=1), dtype=np.int64)

    @property
    def grid_tile(self) -> Ints:
        """Register tile of the whole grid."""
        return self.unroll * self.register_tile

    @property
    def trips(self) -> Ints:
        """DRAM loop trips."""
        return -(-self.extent // self.buffer_tile)

    def tiles(self, inner: Ints) -> Ints:
        """Σ over buffer tiles of ⌈extent of the tile / inner⌉."""
        whole, rest = np.divmod(self.extent, self.buffer_tile)
        return np.asarray(whole * -(-self.buffer_tile // inner) + -(-rest // inner), dtype=np.int64)

    @property
    def last_tile(self) -> Ints:
        """Extent of the last buffer tile."""
        return self.extent - (self.trips - 1) * self.buffer_tile

    def take(self, rows: npt.NDArray[np.bool_] | Ints) -> DimChoices:
        """Keep some rows."""
        return DimChoices(
            self.dim, self.extent, self.axis_factors[rows], self.register_tile[rows], self.buffer_tile[rows]
        )


@dataclass(frozen=True)
class Block:
    """Rows of choices for a block of dimensions, with the integers that costs are made of.

    ``columns`` maps a name to an array of shape (rows,): see ``_columns``. ``axis_use`` has shape (rows, axes).
    """

    choices: tuple[DimChoices, ...]
    columns: dict[str, Ints]
    axis_use: Ints

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.axis_use)

    def take(self, rows: npt.NDArray[np.bool_] | Ints) -> Block:
        """Keep some rows."""
        return Block(
            tuple(choice.take(rows) for choice in self.choices),
            {name: column[rows] for name, column in self.columns.items()},
            self.axis_use[rows],
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


def buffer_tiles(extent: int, grid_tile: int, own: tuple[int, ...] = ()) -> list[int]:
    """Buffer tiles that are worth trying: smallest for their trips, ``own``, and these rounded up to register tiles.

    >>> buffer_tiles(7, 2)
    [1, 2, 3, 4, 7]
    """
    smallest = {-(-extent // trips) for trips in range(1, min(extent, int(2 * extent**0.5) + 2) + 1)}
    smallest |= {tile for tile in range(1, int(extent**0.5) + 2) if tile <= extent}
    smallest = {-(-extent // -(-extent // tile)) for tile in smallest}
    smallest |= set(own)
    rounded = {min(extent, -(-tile // grid_tile) * grid_tile) for tile in smallest}
    return sorted(smallest | rounded)


def dimension_choices(
    dim: Dim, extent: int, axes: Axes, register_tiles: tuple[int, ...], own: OwnNumbers | None = None
) -> DimChoices:
    """All ways to cut one dimension on axes given as (size, dimensions allowed); with ``own`` numbers too."""
    per_axis = [axis_factors(extent, size) if dim in allowed else [1] for size, allowed in axes]
    if own is not None:
        per_axis = [sorted({*mine, *more}) for mine, more in zip(per_axis, own.axis_factors, strict=True)]
    rows: list[tuple[int, ...]] = []
    for factors in itertools.product(*per_axis):
        unroll = int(np.prod(factors))
        # A factor that could be dropped without losing a step is not worth its place.
        if own is None and any(f > 1 and unroll // f >= extent for f in factors):
            continue
        for register in sorted({*register_tiles, extent} if extent <= max(register_tiles) else set(register_tiles)):
            if register > 1 and unroll * (register - 1) >= extent:
                continue
            for tile in buffer_tiles(extent, unroll * register, () if own is None else own.buffer_tiles):
                if tile > unroll * (register - 1) and (tile >= unroll or tile == extent):
                    rows.append((*factors, register, tile))
    table = np.array(rows, dtype=np.int64)
    return DimChoices(dim, extent, table[:, :-2], table[:, -2], table[:, -1])


ChoicesOf = Callable[[Dim, int, Axes, tuple[int, ...]], DimChoices]


def _plain_columns(choice: DimChoices) -> dict[str, Ints]:
    """Integers of one dimension that need no partner."""
    last = choice.last_tile
    last_inner = last - (-(-last // choice.grid_tile) - 1) * choice.grid_tile
    return {
        "trips": choice.trips,
        "steps": choice.tiles(choice.unroll),
        "active": choice.tiles(choice.axis_factors[:, -1]),
        "fetches": choice.tiles(choice.grid_tile),
        "tile": choice.buffer_tile,
        "last": last,
        "last_steps": -(-last // choice.unroll),
        "last_inner": last_inner,
        "last_inner_steps": -(-last_inner // choice.unroll),
        "first_grid": np.minimum(choice.grid_tile, choice.buffer_tile),
        "register": np.minimum(choice.register_tile * choice.axis_factors[:, -1], choice.buffer_tile),
    }


def _prefilter(choice: DimChoices) -> DimChoices:
    """Drop the rows of one dimension that are worse in everything that any cost or limit can ask."""
    if len(choice.buffer_tile) < 2:
        return choice
    columns = _plain_columns(choice)
    # Halo sums fall when the trips or fetches do, so the columns below cover them.
    values = np.column_stack([*columns.values(), choice.axis_factors])
    return choice.take(non_dominated(values))


def _starts(extent: int, *tiles: int) -> Ints:
    """Starts of the innermost of nested tiles."""
    starts: Ints = nested_starts(extent, np.array(tiles, dtype=np.int64))
    return starts


def _pair_block(layer: Layer, axis: int, position: DimChoices, tap: DimChoices) -> Block:
    """All combinations of a position's and a tap's choices, with the input extents of each."""
    count = len(position.buffer_tile), len(tap.buffer_tile)
    left = np.repeat(np.arange(count[0]), count[1])
    right = np.tile(np.arange(count[1]), count[0])
    one, other = position.take(left), tap.take(right)
    stride, dilation = layer.stride[axis], layer.dilation[axis]
    padding, size = layer.padding_begin[axis], layer.stored_input_size[axis]
    buffer_sums: dict[tuple[int, int], tuple[int, int, int]] = {}
    grid_sums: dict[tuple[int, int, int, int], tuple[int, int]] = {}
    rows = np.empty((5, len(left)), dtype=np.int64)
    for i in range(len(left)):
        tiles = int(one.buffer_tile[i]), int(other.buffer_tile[i])
        if tiles not in buffer_sums:
            touched = touched_counts(
                _starts(one.extent, tiles[0]), _starts(other.extent, tiles[1]), stride, dilation, padding, size
            )
            buffer_sums[tiles] = int(touched.sum()), int(touched.max()), int(touched[0, 0])
        key = (*tiles, int(min(one.grid_tile[i], tiles[0])), int(min(other.grid_tile[i], tiles[1])))
        if key not in grid_sums:
            touched = touched_counts(
                _starts(one.extent, key[0], key[2]), _starts(other.extent, key[1], key[3]),
                stride, dilation, padding, size,
            )
            grid_sums[key] = int(touched.sum()), int(touched[0, 0])
        rows[:, i] = (*buffer_sums[tiles], *grid_sums[key])
    columns = {
        f"{name}_{choice.dim}": column
        for choice in (one, other)
        for name, column in _plain_columns(choice).items()
    }
    columns["input_sum"], columns["input_tile"], columns["input_first"] = rows[0], rows[1], rows[2]
    columns["input_grid_sum"], columns["input_first_grid"] = rows[3], rows[4]
    columns["input_register"] = _input_registers(layer, axis, one, other)
    return Block((one, other), columns, one.axis_factors * other.axis_factors)


def _input_registers(layer: Layer, axis: int, position: DimChoices, tap: DimChoices) -> Ints:
    """Registers for inputs along one direction, as ``Plan.register_elements`` counts them."""
    one, other = _plain_columns(position)["register"], _plain_columns(tap)["register"]
    stride, dilation = layer.stride[axis], layer.dilation[axis]
    common = int(np.gcd(stride, dilation))
    shared = np.maximum(0, one - dilation // common) * np.maximum(0, other - stride // common)
    contiguous = (position.unroll == 1) & (tap.unroll == 1)
    return np.asarray(one * other - np.where(contiguous, shared, 0), dtype=np.int64)


def build_blocks(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, choices_of: ChoicesOf = dimension_choices
) -> tuple[Block, ...]:
    """Candidate rows of every block, in the order of ``BLOCKS``.

    The axes are the grid's, then the lanes. ``choices_of`` gives the ways to cut a dimension.
    """
    grid = accelerator.grid
    axes = tuple((axis.size, axis.unroll) for axis in grid.axes)
    axes += ((accelerator.processing_element.lanes(precision), grid.lane_unroll),)
    has_registers = isinstance(grid.passing, MulticastPassing) and all(
        accelerator.registers_of(operand) is not None for operand in OPERANDS
    )
    choices: dict[Dim, DimChoices] = {}
    for block in BLOCKS:
        for dim in block:
            register_tiles: tuple[int, ...] = (1,)
            if has_registers:
                room = min(
                    file.size_bits // precision.register_bits(operand)
                    for operand in OPERANDS
                    if dim in RELEVANT_DIMS[operand] and (file := accelerator.registers_of(operand)) is not None
                )
                register_tiles = tuple(tile for tile in REGISTER_TILES if tile <= max(1, room))
            choices[dim] = _prefilter(choices_of(dim, layer.extent(dim), axes, register_tiles))
    blocks = []
    for dims in BLOCKS:
        if len(dims) == 2:
            blocks.append(_pair_block(layer, 0 if dims[0] == "P" else 1, choices[dims[0]], choices[dims[1]]))
        else:
            choice = choices[dims[0]]
            columns = {f"{name}_{choice.dim}": column for name, column in _plain_columns(choice).items()}
            blocks.append(Block((choice,), columns, choice.axis_factors))
    sizes = np.array([size for size, _ in axes])
    return tuple(block.take(np.flatnonzero((block.axis_use <= sizes).all(axis=1))) for block in blocks)


__all__ = ["BLOCKS", "LANES", "SPACE", "Block", "DimChoices", "build_blocks"]
