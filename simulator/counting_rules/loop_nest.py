"""A loop nest over an ordered hierarchy of memories: the data model that the rules of ZigZag and AccelForge share.

The temporal loops have one order for all operands, outermost first. Each memory keeps each of its operands from some
place in that order on: what lies above the place brings a new tile, what lies below is inside the tile. Spatial loops
lie along named axes; a memory that is replicated along an axis has one copy for each position of it, so those loops
are above its tiles, and inside the tiles of every other memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import Field

from simulator.errors import MappingError, PrecisionError, Problem
from simulator.layer import DIMS, OPERANDS, Dim, Frozen, Layer, Operand
from simulator.precision import LayerPrecision

# Seen from a memory: reads for the memory (or MAC) inside, writes by it; reads for the memory outside, writes by it.
Flow = Literal["to_inner", "from_inner", "to_outer", "from_outer"]
FLOWS: tuple[Flow, ...] = ("to_inner", "from_inner", "to_outer", "from_outer")
READS: tuple[Flow, ...] = ("to_inner", "to_outer")


class Port(Frozen):
    """One physical port of a memory.

    Attributes:
        name: unique within the memory.
        serves: the flows of each operand that pass here.
        bits_per_cycle: bandwidth; None: unlimited.
        word_bits: one access moves so many bits, the last word of a transfer in full.
    """

    name: str
    serves: frozenset[tuple[Operand, Flow]]
    bits_per_cycle: int | None = Field(default=None, ge=1)
    word_bits: int = Field(default=1, ge=1)


class Memory(Frozen):
    """One level of the hierarchy, for the operands it keeps.

    Attributes:
        size_bits: capacity of one copy; None: unlimited.
        read_energy_pj, write_energy_pj: of one word of the port (a bit, where words have one bit).
        replicated_along: axes along which there is a copy at each position.
    """

    name: str
    keeps: tuple[Operand, ...]
    size_bits: int | None
    read_energy_pj: float
    write_energy_pj: float
    ports: tuple[Port, ...]
    replicated_along: tuple[str, ...] = ()

    def port_of(self, operand: Operand, flow: Flow) -> Port:
        """Return the port that a flow of an operand passes. Raises ``MappingError`` where there is none."""
        for port in self.ports:
            if (operand, flow) in port.serves:
                return port
        raise MappingError(Problem(f"no port serves {flow} of {operand}", path=f"memories.{self.name}.ports"))

    def energy_pj(self, flow: Flow) -> float:
        """Energy of one word in a flow."""
        return self.read_energy_pj if flow in READS else self.write_energy_pj


class Machine(Frozen):
    """Memories, outermost first, around an array of multiply-accumulate units with named axes.

    Attributes:
        axes: size of each axis.
        must_reuse: axes whose loops may only be ones that the operand does not depend on.
    """

    name: str
    memories: tuple[Memory, ...]
    axes: dict[str, int]
    mac_energy_pj: float
    must_reuse: dict[str, Operand] = Field(default_factory=dict)

    def memory(self, name: str) -> Memory:
        """Return a memory by its name. Raises ``MappingError`` where there is none."""
        for memory in self.memories:
            if memory.name == name:
                return memory
        raise MappingError(Problem("no such memory", value=name, allowed=tuple(one.name for one in self.memories)))

    def levels(self, operand: Operand) -> tuple[Memory, ...]:
        """Return the memories that keep an operand, outermost first."""
        return tuple(memory for memory in self.memories if operand in memory.keeps)


class Loop(NamedTuple):
    """``trips`` iterations over a dimension."""

    dim: Dim
    trips: int


class Store(Frozen):
    """Where in the order of the temporal loops a memory keeps an operand.

    Attributes:
        loops_above: temporal loops outside the kept tile.
        room_loops_above: temporal loops outside the room the tile takes; None: the same. It differs where a tile
            passes through the memory piece by piece along a loop the operand depends on: the pieces are fetched as
            parts of one tile (a halo between them once), but only one is there at a time.
    """

    memory: str
    loops_above: int
    room_loops_above: int | None = None

    @property
    def room_position(self) -> int:
        """Temporal loops outside the room the tile takes."""
        return self.loops_above if self.room_loops_above is None else self.room_loops_above


class LoopNest(Frozen):
    """One mapping of a layer.

    Attributes:
        temporal: all temporal loops, outermost first.
        spatial: the loops along each axis.
        stores: for each operand its memories' stores, outermost first.
        ragged: dimensions whose loops multiply to more than the layer has: the last tile of each level is smaller.
            No counting rules know them.
    """

    temporal: tuple[Loop, ...]
    spatial: dict[str, tuple[Loop, ...]]
    stores: dict[Operand, tuple[Store, ...]]
    ragged: tuple[Dim, ...] = ()

    @property
    def steps(self) -> int:
        """Temporal iterations in all."""
        return trips(self.temporal)


def trips(loops: tuple[Loop, ...], dims: frozenset[Dim] | None = None) -> int:
    """Product of the loops' trips; with ``dims`` of those over these dimensions only."""
    return math.prod(loop.trips for loop in loops if dims is None or loop.dim in dims)


def spatial_loops(nest: LoopNest, axes: tuple[str, ...]) -> tuple[Loop, ...]:
    """Return the loops that lie along some axes."""
    return tuple(loop for axis in axes for loop in nest.spatial.get(axis, ()))


def axes_inside(machine: Machine, memory: Memory) -> tuple[str, ...]:
    """Return the axes that one copy of a memory serves."""
    return tuple(axis for axis in machine.axes if axis not in memory.replicated_along)


def extents(loops: tuple[Loop, ...]) -> dict[Dim, int]:
    """Extent of each dimension that some loops span together."""
    found: dict[Dim, int] = dict.fromkeys(DIMS, 1)
    for loop in loops:
        found[loop.dim] *= loop.trips
    return found


def tile_extents(machine: Machine, nest: LoopNest, memory: Memory, loops_above: int) -> dict[Dim, int]:
    """Extent of each dimension in the tile that one copy of a memory keeps below ``loops_above`` temporal loops."""
    return extents(nest.temporal[loops_above:] + spatial_loops(nest, axes_inside(machine, memory)))


def spanned(positions: int, taps: int, stride: int, dilation: int) -> int:
    """Rows (or columns) of input from a tile's first to its last: ``stride·(p−1) + dilation·(r−1) + 1``."""
    return stride * (positions - 1) + dilation * (taps - 1) + 1


def touched(positions: int, taps: int, stride: int, dilation: int) -> int:
    """Rows (or columns) of input that a tile needs, those skipped by the stride left out.

    The values of ``stride·p + dilation·r``: with s, d = stride and dilation over their greatest common divisor, (p, r)
    and (p − d, r + s) are the same row, so ``P·R − max(0, R − s)·max(0, P − d)`` are distinct.

    >>> touched(4, 1, 2, 1), touched(4, 3, 2, 1)
    (4, 9)
    """
    common = math.gcd(stride, dilation)
    return positions * taps - max(0, taps - stride // common) * max(0, positions - dilation // common)


def weight_elements(tile: Mapping[Dim, int]) -> int:
    """Elements of weight in a tile."""
    return math.prod(tile[dim] for dim in ("G", "K", "C", "R", "S"))


def output_elements(tile: Mapping[Dim, int]) -> int:
    """Elements of output in a tile."""
    return math.prod(tile[dim] for dim in ("G", "N", "K", "P", "Q"))


def input_elements(layer: Layer, tile: Mapping[Dim, int], every_row: bool) -> int:
    """Elements of input in a tile: all from the first row to the last (``every_row``), or only those touched."""
    count = spanned if every_row else touched
    rows = count(tile["P"], tile["R"], layer.stride[0], layer.dilation[0])
    columns = count(tile["Q"], tile["S"], layer.stride[1], layer.dilation[1])
    return tile["G"] * tile["N"] * tile["C"] * rows * columns


def tile_elements(layer: Layer, operand: Operand, tile: Mapping[Dim, int], every_row: bool) -> int:
    """Elements of an operand in a tile; ``every_row`` as in ``input_elements``."""
    if operand == "input":
        return input_elements(layer, tile, every_row)
    return weight_elements(tile) if operand == "weight" else output_elements(tile)


def check_precision(precision: LayerPrecision) -> None:
    """Raise ``PrecisionError`` where a precision has what neither tool knows: channels of different widths."""
    if precision.split is not None:
        raise PrecisionError(
            Problem("these counting rules know no layers split by channel: count each part's precision alone",
                    path="precision.split", value=precision.split.label)
        )


def check(layer: Layer, machine: Machine, nest: LoopNest, *, ragged: bool = False) -> None:
    """Raise ``MappingError`` with every way in which a nest is not one of this layer on this machine.

    ``ragged``: whether the nest's ragged dimensions may be so.
    """
    problems = []
    every = nest.temporal + spatial_loops(nest, tuple(nest.spatial))
    for dim, extent in extents(every).items():
        if extent != layer.extent(dim) and not (ragged and dim in nest.ragged and extent > layer.extent(dim)):
            problems.append(Problem(f"its loops multiply to {extent}, the layer has {layer.extent(dim)}", path=dim))
    for axis, loops in nest.spatial.items():
        if axis not in machine.axes:
            problems.append(Problem("no such axis", path=f"spatial.{axis}", allowed=tuple(machine.axes)))
        elif trips(loops) > machine.axes[axis]:
            problems.append(Problem(f"the axis has {machine.axes[axis]} positions", path=f"spatial.{axis}",
                                    value=str(trips(loops))))
    for operand in OPERANDS:
        named = tuple(store.memory for store in nest.stores.get(operand, ()))
        wanted = tuple(memory.name for memory in machine.levels(operand))
        if named != wanted:
            problems.append(Problem("must be the memories that keep it, outermost first", path=f"stores.{operand}",
                                    value=", ".join(named), allowed=wanted))
        places = [store.loops_above for store in nest.stores.get(operand, ())]
        if places != sorted(places) or (places and not 0 <= places[0] <= places[-1] <= len(nest.temporal)):
            problems.append(Problem("an inner memory's tile lies inside the outer one's, within the loops",
                                    path=f"stores.{operand}.loops_above", value=str(places)))
    if problems:
        raise MappingError(problems)
