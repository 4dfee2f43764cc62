"""What the search may choose: for each block of dimensions, a list of ways to tile and unroll it.

A *block* is a set of dimensions whose costs cannot be told apart: G, N, K, C alone, and the pairs (P, R) and (Q, S),
because a tile of output rows and a tile of kernel taps touch input rows together. A row of a block fixes, for
its dimensions, the factor on every axis and on the lanes, the register tile and the buffer tile, and carries the
integers that the cost is made of. The cost of a mapping is then a sum of products with one factor a block
(``cost_terms``), which is what makes the search small.

The space is that of ``dimension_choices``, where of two ways to cut a dimension of which one is equal or worse in
everything that a cost or limit counts, only the other stays. Every certificate names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mapper.dimension_choices import (
    REGISTER_TILES,
    Axes,
    ChoicesOf,
    DimChoices,
    Ints,
    dimension_choices,
)
from mapper.factor_table import FactorTable
from mapper.split_channels import SplitChannels, layer_in_places, split_channels, split_columns
from simulator.accelerator import LANES, Accelerator, MulticastPassing
from simulator.kernels import non_dominated, touched_by_nests
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.precision import LayerPrecision

SPACE = (
    "axis factors min(n, floor(size/k)) or smaller with as many steps; buffer tiles ceil(n/T) or these rounded up to "
    "register tiles; register tiles 1, 2, 4, 8, 16 or the whole; of two ways to cut a dimension of which one needs no "
    "less of anything that is counted, only the other; two orders of the DRAM loops for each operand that they hold, "
    "one of the buffer loops; groups outermost"
)
DEEP_SPACE = SPACE.replace(
    "two orders of the DRAM loops for each operand that they hold, one of the buffer loops",
    "outer buffer tiles ceil(n/T) or these rounded up to inner ones; on dimensions of many such tiles T of 1, 2, 3, 4, "
    "6, 8, 12, 16, ...; two orders of the loops of DRAM and of each outer buffer for each operand that they hold, one "
    "of the innermost buffer's; weights and inputs that lie in several buffers are held twice wherever there is room"
)
SPLIT_SPACE = (
    "; along C, counted in places, axis factors and buffer tiles also of the narrow and of the wide places alone"
)
BLOCKS: tuple[tuple[Dim, ...], ...] = (("G",), ("N",), ("K",), ("C",), ("P", "R"), ("Q", "S"))
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """Rows of choices for a block of dimensions, with the integers that costs are made of.

    ``columns`` maps a name to an array of shape (rows,): see ``_columns``. ``axis_use`` has shape (rows, axes).
    ``found``: what others find out about these rows alone, kept for the next search.
    """

    choices: tuple[DimChoices, ...]
    columns: dict[str, Ints]
    axis_use: Ints
    found: dict[str, object] = field(default_factory=dict, init=False, repr=False, compare=False)
    _products: dict[tuple[str, ...], Ints | None] = field(default_factory=dict, repr=False, compare=False)
    _table: FactorTable = field(default_factory=FactorTable, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.axis_use)

    def product(self, names: tuple[str, ...]) -> Ints | None:
        """Product of some columns; None where it is 1 in every row. Kept: variants and precisions ask for the same."""
        if names not in self._products:
            values = np.prod([self.columns[name] for name in names], axis=0) if names else None
            self._products[names] = None if values is None or (values == 1).all() else values
        return self._products[names]

    def table(self, factors: Sequence[Ints | None]) -> Floats:
        """Products of columns side by side, shape (rows, factors); None as 1."""
        return self._table.columns(factors, self.size)

    @cached_property
    def smallest(self) -> int:
        """The row with the smallest tiles."""
        sizes = tuple(
            name for name in self.columns if name.startswith(("tile", "register_", "input_tile", "input_register"))
        )
        size = self.product(sizes)
        use = self.axis_use.prod(axis=1)
        return int(np.argmin(use if size is None else use * size.astype(np.float64)))

    @cached_property
    def kinds(self) -> Ints:
        """Tiles and unrolling of the rows, shape (rows, numbers)."""
        return np.column_stack([
            numbers for choice in self.choices for numbers in (choice.buffer_tiles, choice.unroll)
        ])

    def take(self, rows: npt.NDArray[np.bool_] | Ints) -> Block:
        """Keep some rows."""
        return Block(
            tuple(choice.take(rows) for choice in self.choices),
            {name: column[rows] for name, column in self.columns.items()},
            self.axis_use[rows],
        )


def _plain_columns(choice: DimChoices) -> dict[str, Ints]:
    """Integers of one dimension that need no partner."""
    innermost = choice.levels
    last = choice.last_tile(innermost)
    last_inner = last - (-(-last // choice.grid_tile) - 1) * choice.grid_tile
    columns = {
        "steps": choice.tiles(choice.unroll),
        "active": choice.tiles(choice.axis_factors[:, -1]),
        "fetches": choice.tiles(choice.grid_tile),
        "last_steps": -(-last // choice.unroll),
        "last_inner": last_inner,
        "last_inner_steps": -(-last_inner // choice.unroll),
        "first_grid": np.minimum(choice.grid_tile, choice.buffer_tile),
        "register": np.minimum(choice.register_tile * choice.axis_factors[:, -1], choice.buffer_tile),
    }
    for level in range(1, innermost + 1):
        columns[f"trips{level}"] = choice.tile_count(level)
        columns[f"tile{level}"] = choice.buffer_tiles[:, level - 1]
        columns[f"last{level}"] = choice.last_tile(level)
    return columns


def _channel_columns(choice: DimChoices, split: SplitChannels | None) -> dict[str, Ints]:
    """Integers of the channels. Of a split layer's, tiles are counted in bits and steps in cycles; what the outputs
    need of them, and folds, in numbers as ever."""
    plain = _plain_columns(choice)
    if split is None:
        return plain
    trips = [f"trips{level}" for level in range(1, choice.levels + 1)]
    columns = {name: plain[name] for name in ("steps", "active", "fetches", "last_steps", "last_inner_steps", *trips)}
    return columns | split_columns(
        split, choice.buffer_tiles, choice.unroll, choice.axis_factors[:, -1], choice.grid_tile, plain["register"],
        plain[f"last{choice.levels}"], plain["last_inner"],
    )


def _prefilter(choice: DimChoices, columns: dict[str, Ints], *, single_trips: bool = False) -> DimChoices:
    """Drop the rows of one dimension that are worse in everything that any cost or limit can ask.

    ``columns``: what those ask of it. ``single_trips``: for that, a loop of more than one trip is worse than one of a
    single trip.
    """
    if len(choice.buffer_tile) < 2:
        return choice
    loops = [~choice.single_trip(level) for level in range(choice.levels + 1)] if single_trips else []
    # Halo sums fall when the trips or fetches do, so the columns below cover them.
    values = np.column_stack([*columns.values(), choice.axis_factors, *loops])
    return choice.take(non_dominated(values))


def _pair_block(layer: Layer, axis: int, position: DimChoices, tap: DimChoices) -> Block:
    """All combinations of a position's and a tap's choices, with the input extents of each.

    At each level of buffers: Σ over the pairs of tiles, the largest, and the first one's; with several levels the sum
    and the first one's also as 0 where a tile of the innermost level may be nothing but padding (``padded``).
    """
    count = len(position.buffer_tile), len(tap.buffer_tile)
    left = np.repeat(np.arange(count[0]), count[1])
    right = np.tile(np.arange(count[1]), count[0])
    one, other = position.take(left), tap.take(right)
    levels = position.levels
    columns = {
        f"{name}_{choice.dim}": column
        for choice in (one, other)
        for name, column in _plain_columns(choice).items()
    }
    empty = np.zeros(len(left), dtype=np.bool_)
    for level in range(levels, 0, -1):
        nests = [choice.buffer_tiles[:, :level] for choice in (one, other)]
        sums, largest, first, least = _touched_columns(layer, axis, *nests)
        if level == levels:
            empty = least == 0
        columns[f"input_sum{level}"], columns[f"input_tile{level}"] = sums, largest
        columns[f"input_first{level}"] = first
        if levels > 1:
            columns[f"input_sum{level}_padded"] = np.where(empty, 0, sums)
            columns[f"input_first{level}_padded"] = np.where(empty, 0, first)
    nests = [
        np.column_stack([choice.buffer_tiles, np.minimum(choice.grid_tile, choice.buffer_tile)])
        for choice in (one, other)
    ]
    columns["input_grid_sum"], _, columns["input_first_grid"], _ = _touched_columns(layer, axis, *nests)
    columns["input_register"] = _input_registers(layer, axis, one, other)
    return Block((one, other), columns, one.axis_factors * other.axis_factors)


def _touched_columns(layer: Layer, axis: int, positions: Ints, taps: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Input rows (axis 0) or columns (axis 1) that the pairs of tiles of nests touch, nests given as (rows, levels).

    Over all pairs of tiles the sum, the most, those of the first pair, and the fewest; each of shape (rows,).
    """
    geometry = layer.stride[axis], layer.dilation[axis], layer.padding_begin[axis], layer.stored_input_size[axis]
    position, tap = BLOCKS[4 + axis]
    both, which = np.unique(np.column_stack([positions, taps]), axis=0, return_inverse=True)
    depth = positions.shape[1]
    found: Ints = touched_by_nests(
        layer.extent(position), layer.extent(tap), np.ascontiguousarray(both[:, :depth]),
        np.ascontiguousarray(both[:, depth:]), *geometry,
    )
    sums, largest, first, least = found[which.ravel()].T
    return sums, largest, first, least


def _input_registers(layer: Layer, axis: int, position: DimChoices, tap: DimChoices) -> Ints:
    """Registers for inputs along one direction, as ``Plan.register_elements`` counts them."""
    one, other = _plain_columns(position)["register"], _plain_columns(tap)["register"]
    stride, dilation = layer.stride[axis], layer.dilation[axis]
    common = int(np.gcd(stride, dilation))
    shared = np.maximum(0, one - dilation // common) * np.maximum(0, other - stride // common)
    contiguous = (position.unroll == 1) & (tap.unroll == 1)
    return np.asarray(one * other - np.where(contiguous, shared, 0), dtype=np.int64)


@dataclass(frozen=True)
class RowProblem:
    """All that the rows of the blocks follow from: precisions that agree in it choose from the same rows.

    ``axes`` are the grid's, then the lanes; ``register_tiles`` of each of ``DIMS``. The layer has no name, and as many
    channels as there are places. ``split``: None where no channels are narrow.
    """

    layer: Layer
    axes: Axes
    register_tiles: tuple[tuple[int, ...], ...]
    levels: int
    split: SplitChannels | None = None


def row_problem(layer: Layer, precision: LayerPrecision, accelerator: Accelerator) -> RowProblem:
    """What the rows of a layer's blocks follow from.

    Widths count by the lanes and by the room in registers alone; where channels are split, also as such.
    """
    grid = accelerator.grid
    split = split_channels(layer, precision, accelerator)

    def register_bits(operand: Operand) -> int:
        return precision.register_bits(operand) if split is None or operand == "output" else split.widest_bits(operand)

    axes = tuple((axis.size, axis.unroll) for axis in grid.axes)
    axes += ((accelerator.processing_element.lanes(precision), grid.lane_unroll),)
    has_registers = isinstance(grid.passing, MulticastPassing) and all(
        accelerator.registers_of(operand) is not None for operand in OPERANDS
    )
    register_tiles: list[tuple[int, ...]] = []
    for dim in DIMS:
        tiles: tuple[int, ...] = (1,)
        if has_registers:
            room = min(
                file.size_bits // register_bits(operand)
                for operand in OPERANDS
                if dim in RELEVANT_DIMS[operand] and (file := accelerator.registers_of(operand)) is not None
            )
            tiles = tuple(tile for tile in REGISTER_TILES if tile <= max(1, room))
        register_tiles.append(tiles)
    return RowProblem(
        layer_in_places(layer, precision, accelerator).model_copy(update={"name": ""}), axes, tuple(register_tiles),
        accelerator.buffer_levels, split,
    )


def build_blocks(
    problem: RowProblem, choices_of: ChoicesOf = dimension_choices, *, dominance: bool = True,
    single_trips: bool = False,
) -> tuple[Block, ...]:
    """Candidate rows of every block, in the order of ``BLOCKS``.

    ``choices_of`` gives the ways to cut a dimension; ``dominance``: leave out those that others dominate, with
    ``single_trips`` only those that do so with no more loops.
    """
    layer, axes, split = problem.layer, problem.axes, problem.split

    def columns_of(choice: DimChoices) -> dict[str, Ints]:
        return _channel_columns(choice, split) if choice.dim == "C" else _plain_columns(choice)

    choices: dict[Dim, DimChoices] = {}
    for dim, register_tiles in zip(DIMS, problem.register_tiles, strict=True):
        border = split.places.narrow_places if split is not None and dim == "C" else 0
        every = choices_of(dim, layer.extent(dim), axes, register_tiles, problem.levels, border)
        choices[dim] = _prefilter(every, columns_of(every), single_trips=single_trips) if dominance else every
    blocks = []
    for dims in BLOCKS:
        if len(dims) == 2:
            blocks.append(_pair_block(layer, 0 if dims[0] == "P" else 1, choices[dims[0]], choices[dims[1]]))
        else:
            choice = choices[dims[0]]
            columns = {f"{name}_{choice.dim}": column for name, column in columns_of(choice).items()}
            blocks.append(Block((choice,), columns, choice.axis_factors))
    sizes = np.array([size for size, _ in axes])
    return tuple(block.take(np.flatnonzero((block.axis_use <= sizes).all(axis=1))) for block in blocks)


__all__ = ["BLOCKS", "LANES", "SPACE", "Block", "DimChoices", "RowProblem", "build_blocks", "row_problem"]
