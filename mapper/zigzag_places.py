"""What it costs, under ZigZag's counting rules, where in the order of loops a memory begins to keep an operand.

With the spatial loops given, a nest is one order of the temporal loops and, for each operand and memory, a *place* in
it. All that the rules count at a place follows from its *point*: how much of each dimension the loops inside it span.
Tile, period (the steps inside), whether sums are partial, words and cycles of each transfer do not depend on anything
else; irrelevant loops just above a place move inside, so only places without any need to be considered. So a nest
costs a sum over its places, and the points of its places follow each other in the lattice of divisors.

The one more place of each operand is that of its MACs: how far the loops at the very bottom leave it where it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mapper.nest_options import divisors
from simulator.counting_rules.loop_nest import (
    READS,
    Flow,
    Loop,
    LoopNest,
    Machine,
    Memory,
    Store,
    axes_inside,
    check,
    extents,
    output_elements,
    spatial_loops,
    weight_elements,
)
from simulator.counting_rules.zigzag_flows import Level, levels_of
from simulator.errors import ConfigurationError, Problem
from simulator.layer import DIMS, OPERANDS, REDUCTION_DIMS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.precision import LayerPrecision

Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Lattice:
    """The points: extents that the loops inside a place may span, ascending in every dimension.

    Attributes:
        dims: dimensions with temporal loops. extent (points, dims): of each, the loops inside.
        steps (points): of the loops inside. moves (points, primes): to the point one prime further, −1: there is none.
        move_dims (primes): along which dimension.
    """

    dims: tuple[Dim, ...]
    extent: Integers
    steps: Integers
    moves: Integers
    move_dims: tuple[int, ...]

    @property
    def last(self) -> int:
        """The number of the point with all loops inside; that without any is 0."""
        return len(self.steps) - 1

    def along(self, dim: Dim) -> Integers | int:
        """Extent of one dimension at every point."""
        return self.extent[:, self.dims.index(dim)] if dim in self.dims else 1


def lattice_of(whole: dict[Dim, int]) -> Lattice:
    """Return the lattice of the temporal loops' extents."""
    dims = tuple(dim for dim in DIMS if whole.get(dim, 1) > 1)
    values = [divisors(whole[dim]) for dim in dims]
    grid = np.meshgrid(*values, indexing="ij") if dims else []
    extent = np.stack([each.ravel() for each in grid], axis=1) if dims else np.ones((1, 0), dtype=np.int64)
    strides = [math.prod(len(each) for each in values[number + 1:]) for number in range(len(dims))]
    columns, move_dims = [], []
    for number, own in enumerate(values):
        place = {value: index for index, value in enumerate(own)}
        for prime in _primes(own[-1]):
            onward = [place.get(value * prime, -1) for value in own]
            at = np.array([place[int(value)] for value in extent[:, number]])
            to = np.array(onward)[at]
            move_dims.append(number)
            columns.append(np.where(to >= 0, np.arange(len(extent)) + (to - at) * strides[number], -1))
    moves = np.stack(columns, axis=1) if columns else np.full((1, 1), -1)
    return Lattice(dims, extent.astype(np.int64), extent.prod(axis=1).astype(np.int64), moves.astype(np.int64),
                   tuple(move_dims))


def _primes(number: int) -> list[int]:
    return [one for one in divisors(number)[1:] if len(divisors(one)) == 2]


@dataclass(frozen=True)
class PlacedFlow:
    """One flow that a place decides, at every point.

    Attributes:
        bits, words, cycles: of one transfer of one copy, with how many ``copies``. moves: whether it is there.
    """

    memory: Memory
    operand: Operand
    flow: Flow
    port: str
    bits: Integers
    words: Integers
    cycles: Integers
    copies: int
    moves: Bools


@dataclass(frozen=True)
class Place:
    """Where a memory begins to keep an operand, or (``memory`` None) from where on MACs hold it still.

    Attributes:
        parent: the next memory outside (for the MACs: the innermost memory).
        allowed (points): where a tile fits a memory of its own, or (MACs) where nothing inside changes it.
        tile_bits (points): of one copy. flows: those that the place decides.
    """

    operand: Operand
    memory: Memory | None
    parent: Memory
    allowed: Bools
    tile_bits: Integers
    flows: tuple[PlacedFlow, ...]


@dataclass(frozen=True)
class PlacedLayer:
    """A layer on a machine with its spatial loops: the lattice, and every operand's places, the MACs' first."""

    layer: Layer
    precision: LayerPrecision
    machine: Machine
    spatial: dict[str, tuple[Loop, ...]]
    lattice: Lattice
    places: dict[Operand, tuple[Place, ...]]


def places_of(
    layer: Layer, precision: LayerPrecision, machine: Machine, spatial: dict[str, tuple[Loop, ...]]
) -> PlacedLayer:
    """Return the places of a layer.

    Raises ``ConfigurationError`` for a machine with too many memories inside each other or for spatial loops that do
    not divide the layer, ``MappingError`` for ones that do not fit the axes.
    """
    across = extents(tuple(loop for loops in spatial.values() for loop in loops))
    uneven = [Problem(f"its spatial loops span {across[dim]}, which does not divide {layer.extent(dim)}", path=dim)
              for dim in DIMS if layer.extent(dim) % across[dim]]
    deep = [Problem("the search knows two memories inside the outermost one", path=f"memories of {operand}")
            for operand in OPERANDS if not 1 <= len(machine.levels(operand)) <= 3]
    if uneven or deep:
        raise ConfigurationError([*uneven, *deep])
    lattice = lattice_of({dim: layer.extent(dim) // across[dim] for dim in DIMS})
    bare = LoopNest(temporal=(), spatial=spatial, stores={
        operand: tuple(Store(memory=memory.name, loops_above=0) for memory in machine.levels(operand))
        for operand in OPERANDS
    })
    everything = tuple(Loop(dim, layer.extent(dim) // across[dim]) for dim in DIMS)
    check(layer, machine, bare.model_copy(update={"temporal": everything}))
    places = {}
    for operand in OPERANDS:
        levels = levels_of(layer, operand, machine, bare)
        places[operand] = (_macs(layer, precision, lattice, operand, levels[0]), *(
            _kept(layer, precision, machine, lattice, operand, bare, inner, outer)
            for inner, outer in itertools.pairwise(levels)
        ))
    return PlacedLayer(layer, precision, machine, spatial, lattice, places)


def _whole(lattice: Lattice, dims: Sequence[Dim]) -> Integers:
    """Product of some dimensions' extents at every point."""
    found = np.ones(len(lattice.steps), dtype=np.int64)
    for dim in dims:
        found = found * lattice.along(dim)
    return found


def _flow(operand: Operand, flow: Flow, memory: Memory, elements: Integers, width: Integers, copies: int,
          moves: Bools) -> PlacedFlow:
    port = memory.port_of(operand, flow)
    bits = elements * width
    cycles = -(-bits // port.bits_per_cycle) if port.bits_per_cycle else np.zeros_like(bits)
    return PlacedFlow(memory, operand, flow, port.name, bits, -(-bits // port.word_bits), cycles, copies, moves)


def _macs(layer: Layer, precision: LayerPrecision, lattice: Lattice, operand: Operand, innermost: Level) -> Place:
    ones = np.ones(len(lattice.steps), dtype=np.int64)
    always = np.ones(len(ones), dtype=np.bool_)
    elements = ones * innermost.feeds
    if operand != "output":
        still = _whole(lattice, [dim for dim in DIMS if dim in RELEVANT_DIMS[operand]]) == 1
        width = ones * precision.stored_bits(operand)
        read = _flow(operand, "to_inner", innermost.memory, elements, width, innermost.copies, always)
        return Place(operand, None, innermost.memory, still, ones, (read,))
    # Sums are never held by the MACs; they are partial where anything is reduced at all, other than inside the level.
    reduced = int(_whole(lattice, sorted(REDUCTION_DIMS))[-1]) > 1 or innermost.partial_inside
    width = ones * (precision.stored_bits(operand) if reduced else precision.output.bits)
    flows = (
        _flow(operand, "from_inner", innermost.memory, elements, width, innermost.copies, always),
        _flow(operand, "to_inner", innermost.memory, elements, width, innermost.copies, always & reduced),
    )
    return Place(operand, None, innermost.memory, np.arange(len(ones)) == 0, ones, flows)


def _kept(
    layer: Layer, precision: LayerPrecision, machine: Machine, lattice: Lattice, operand: Operand, bare: LoopNest,
    inner: Level, outer: Level,
) -> Place:
    inside = extents(spatial_loops(bare, axes_inside(machine, inner.memory)))
    tile = _elements(layer, operand, {dim: inside[dim] * lattice.along(dim) for dim in DIMS})
    tile = tile * np.ones(len(lattice.steps), dtype=np.int64)
    always = np.ones(len(tile), dtype=np.bool_)
    width = np.full(len(tile), precision.stored_bits(operand))
    if operand == "output":
        within = _whole(lattice, sorted(REDUCTION_DIMS))
        partial = (within < within[-1]) | inner.partial_here
        width = np.where(partial, width, precision.output.bits)
        ends: list[tuple[Flow, Flow, Bools]] = [
            ("to_outer", "from_inner", always), ("from_outer", "to_inner", partial)
        ]
    else:
        ends = [("from_outer", "to_inner", always)]
    flows = []
    for here, there, moves in ends:
        flows.append(_flow(operand, here, inner.memory, tile, width, inner.copies, moves))
        flows.append(_flow(operand, there, outer.memory, tile * outer.feeds, width, outer.copies, moves))
    size = inner.memory.size_bits
    allowed = always if size is None else tile * width <= size
    return Place(operand, inner.memory, outer.memory, allowed, tile * width, tuple(flows))


def _elements(layer: Layer, operand: Operand, tile: dict[Dim, Any]) -> Integers:
    """``loop_nest.tile_elements`` of many tiles, rows that the stride skips left out."""
    if operand != "input":
        found: Integers = (weight_elements if operand == "weight" else output_elements)(tile)  # type: ignore[assignment]
        return found
    rows = _touched(tile["P"], tile["R"], layer.stride[0], layer.dilation[0])
    columns = _touched(tile["Q"], tile["S"], layer.stride[1], layer.dilation[1])
    product: Integers = tile["G"] * tile["N"] * tile["C"] * rows * columns
    return product


def _touched(positions: Any, taps: Any, stride: int, dilation: int) -> Any:
    """``loop_nest.touched`` of many tiles."""
    common = math.gcd(stride, dilation)
    again = np.maximum(0, taps - stride // common) * np.maximum(0, positions - dilation // common)
    return positions * taps - again


def transfers_energy_pj(place: Place, lattice: Lattice) -> npt.NDArray[np.float64]:
    """Energy of all that a place decides, at every point."""
    periods = lattice.steps[-1] // lattice.steps
    total = np.zeros(len(periods))
    for flow in place.flows:
        words = flow.words * periods * flow.copies
        energy_pj = flow.memory.read_energy_pj if flow.flow in READS else flow.memory.write_energy_pj
        total += np.where(flow.moves, words * energy_pj, 0.0)
    return total
