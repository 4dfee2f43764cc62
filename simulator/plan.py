"""From the data model to plain numbers: checks a mapping, and lays out what the engines walk over.

``docs/simulator.md`` has the meaning of every number here. A ``Plan`` is made once for a layer, precision, machine
and mapping; ``fast`` and ``bound`` both start from it, so that they cannot differ in what they were asked.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.accelerator import LANES, Accelerator, Buffer, MulticastPassing, RegisterFile
from simulator.channel_split import ChannelPlaces
from simulator.errors import MappingError, Problem
from simulator.kernels import nested_starts, touched_counts
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.mapping import Mapping
from simulator.plan_checks import capacity_problems, shape_problems
from simulator.precision import LayerPrecision

Counts = npt.NDArray[np.int64]
_CHANNEL = DIMS.index("C")
POSITION_AND_TAP: tuple[tuple[Dim, Dim], tuple[Dim, Dim]] = (("P", "R"), ("Q", "S"))


@dataclass(frozen=True)
class GridTiming:
    """What the grid costs beyond its steps (docs/simulator.md, "The grid's time").

    ``drain_cycles``: the least that passes from one fold to the next, because results leave by one chain a column.
    """

    load_cycles: int
    tail_cycles: int
    overlap: bool
    preload: bool
    stationary: Operand | None
    drain_cycles: int = 0


def grid_timing(accelerator: Accelerator) -> GridTiming:
    """Fill, skew and drain of a machine's grid."""
    passing = accelerator.grid.passing
    tail = accelerator.processing_element.pipeline_cycles + accelerator.grid.adder_tree_cycles
    if isinstance(passing, MulticastPassing):
        return GridTiming(0, tail, overlap=True, preload=False, stationary=None)
    # A multicast axis is crossed in no time, as if it had one PE; and nothing is loaded along it.
    rows, columns = (
        axis.size if kind == "systolic" else 1
        for axis, kind in zip(accelerator.grid.axes, accelerator.grid.axis_passings, strict=True)
    )
    hops_down = accelerator.grid.axis_passings[0] == "systolic"
    tail += passing.pipeline_cycles + columns - 1
    if passing.stationary == "output":
        tail += (rows - 1) + (rows if passing.drains_outputs else 0)
    else:
        tail += rows * passing.partial_sum_hop_cycles - 1
    return GridTiming(
        load_cycles=rows if hops_down and passing.stationary in ("weight", "input") else 0,
        tail_cycles=tail,
        overlap=passing.fold_overlap or passing.stationary is None,
        preload=passing.stationary_preload,
        stationary=passing.stationary,
        drain_cycles=rows if passing.stationary == "output" and passing.drains_outputs else 0,
    )


def channel_places(layer: Layer, precision: LayerPrecision, accelerator: Accelerator) -> ChannelPlaces:
    """How the loop nest counts a layer's channels: as they are, or in places where the layer is split by channel.

    Lanes that the narrow formats add to the wide ones go along C, where C may lie on the lanes.
    """
    split = precision.split
    if split is None:
        return ChannelPlaces(layer.extent("C"))
    element = accelerator.processing_element
    more = element.lanes(precision.narrow) // element.lanes(precision.wide)
    return ChannelPlaces(
        layer.extent("C"), split.channels(layer), more if "C" in accelerator.grid.lane_unroll else 1
    )


def products_of(
    layer: Layer, precision: LayerPrecision, channels: ChannelPlaces
) -> tuple[tuple[LayerPrecision, int], ...]:
    """Precision of each part of a layer's channels, and how many of its products are in it."""
    of_a_channel = layer.macs // channels.channels
    counts = (of_a_channel * (channels.channels - channels.narrow_channels), of_a_channel * channels.narrow_channels)
    return tuple(zip(precision.parts, counts, strict=False))


@dataclass(frozen=True)
class Place:
    """A memory that an operand passes: its level among the buffers (registers stand below all), and whether the
    operand is held there twice."""

    level: int
    memory: Buffer | RegisterFile
    double_buffer: bool


class _ChannelCycles(NamedTuple):
    """Along C: cycles of the steps, those of the PEs at work in them, and of PEs with products of the narrow part
    alone."""

    cycles: int
    active_cycles: int
    narrow_active_cycles: int


class Plan:
    """A checked mapping of one layer, in numbers.

    Raises ``MappingError`` with every problem where the mapping does not fit the layer or the machine, and
    ``PrecisionError`` where the PE cannot run the precision.
    """

    def __init__(
        self, layer: Layer, precision: LayerPrecision, accelerator: Accelerator, mapping: Mapping
    ) -> None:
        accelerator.processing_element.check(precision)
        self.layer, self.precision, self.accelerator, self.mapping = layer, precision, accelerator, mapping
        self.channels = channel_places(layer, precision, accelerator)
        self.narrow = precision.narrow
        self.timing = grid_timing(accelerator)
        # Where it depends on values: the least. `fast` then takes the time of each pass from the values.
        self.step_cycles = accelerator.processing_element.fewest_cycles_per_step(precision)
        self.narrow_step_cycles = accelerator.processing_element.fewest_cycles_per_step(self.narrow)
        self._touched: dict[int, tuple[Counts, Counts]] = {}
        self.extent = np.array(layer.shape, dtype=np.int64)
        self.extent[_CHANNEL] = self.channels.count
        levels = [[level.tile.get(dim, 1) for dim in DIMS] for level in mapping.buffer_levels]
        self.tile = np.array([self.extent.tolist(), *levels], dtype=np.int64)
        register = mapping.level("register")
        self.unroll = np.array([mapping.unrolled(dim) for dim in DIMS], dtype=np.int64)
        self.lane_unroll = np.array(
            [mapping.spatial.get(LANES, {}).get(dim, 1) for dim in DIMS], dtype=np.int64
        )
        self.register_tile = np.array([register.tile.get(dim, 1) for dim in DIMS], dtype=np.int64)
        self.grid_tile = self.unroll * self.register_tile
        self.trips = -(-self.tile // np.vstack([self.tile[1:], self.grid_tile]))
        if len(levels) != accelerator.buffer_levels:
            raise MappingError([
                Problem(f"{accelerator.name} has {accelerator.buffer_levels} levels of buffers",
                        where=f"mapping of {layer.name}", path="levels", value=f"{len(levels)} buffer tiles")
            ])
        problems = shape_problems(self) or capacity_problems(self)
        if problems:
            raise MappingError(problems)

    # ---- what the mapping says ------------------------------------------------------------------------------

    @property
    def levels(self) -> int:
        """Levels of buffers."""
        return len(self.tile) - 1

    @property
    def buffer_tile(self) -> Counts:
        """Innermost buffer tile."""
        innermost: Counts = self.tile[-1]
        return innermost

    def places(self, operand: Operand) -> tuple[Place, ...]:
        """Memories that an operand passes on its way between DRAM and the grid, outermost first.

        An operand that bypasses all buffers has its registers as its one place, on the level below the buffers.
        """
        return self._places[operand]

    @cached_property
    def _places(self) -> dict[Operand, tuple[Place, ...]]:
        return {operand: self._places_of(operand) for operand in OPERANDS}

    def _places_of(self, operand: Operand) -> tuple[Place, ...]:
        found = tuple(
            Place(level, buffer, self.mapping.doubles(operand, level))
            for buffer in self.accelerator.buffers_of(operand)
            if not self.mapping.bypasses(operand, level := self.accelerator.level_of(buffer))
        )
        if found:
            return found
        file = self.accelerator.registers_of(operand)
        assert file is not None, "a bypassing operand needs a register file"
        return (Place(self.levels + 1, file, self.mapping.doubles(operand, self.levels + 1)),)

    @cached_property
    def bypass(self) -> Operand | None:
        """The operand that bypasses all its buffers."""
        return next((operand for operand in OPERANDS if self.bypasses_all(operand)), None)

    def bypasses_all(self, operand: Operand) -> bool:
        """Whether an operand passes by every buffer that keeps it."""
        levels = [self.accelerator.level_of(buffer) for buffer in self.accelerator.buffers_of(operand)]
        return all(self.mapping.bypasses(operand, level) for level in levels)

    @cached_property
    def buffer_loops(self) -> tuple[Dim, ...]:
        """Loops over register tiles with more than one nominal trip, outermost first."""
        return tuple(d for d in self.mapping.level("buffer").order if self.trips[-1][DIMS.index(d)] > 1)

    @cached_property
    def buffer_event_loops(self) -> tuple[Dim, ...]:
        """Buffer loops whose iterations are events of their own: those relevant to the bypassing operand."""
        if self.bypass is None:
            return ()
        return tuple(d for d in self.buffer_loops if d in RELEVANT_DIMS[self.bypass])

    @cached_property
    def event_loops(self) -> tuple[tuple[Dim, int], ...]:
        """Loops over events, outermost first, each with the level whose tile it cuts: those of more than one trip."""
        loops = [
            (dim, number)
            for number, level in enumerate(self.mapping.levels[:-2])
            for dim in level.order
            if self.trips[number][DIMS.index(dim)] > 1
        ]
        return (*loops, *((dim, self.levels) for dim in self.buffer_event_loops))

    def run_depth(self, operand: Operand, level: int) -> int:
        """Event loops, counted from the outermost, of which each trip begins a new run of an operand at a level."""
        if level > self.levels and self.buffer_event_loops:
            return len(self.event_loops)
        relevant = RELEVANT_DIMS[operand]
        return max((i + 1 for i, (d, at) in enumerate(self.event_loops) if at < level and d in relevant), default=0)

    def held_loops(self, operand: Operand) -> frozenset[Dim]:
        """Buffer loops across which an operand stays in the registers: within one event."""
        if self.accelerator.registers_of(operand) is None:
            return frozenset()
        held: set[Dim] = set()
        for dim in reversed(self.buffer_loops):
            if dim in RELEVANT_DIMS[operand] or dim in self.buffer_event_loops:
                break
            held.add(dim)
        return frozenset(held)

    def fill_multiplier(self, operand: Operand, level: int) -> int:
        """How often each element of an operand moves between its place at a level and the next outer one."""
        deepest: dict[Dim, int] = {}
        for dim, at in self.event_loops[: self.run_depth(operand, level)]:
            if dim not in RELEVANT_DIMS[operand]:
                deepest[dim] = at
        return math.prod(self.tile_count(dim, at + 1) for dim, at in deepest.items())

    def grid_multiplier(self, operand: Operand) -> int:
        """How often each fetched element of an operand passes between its buffer and the grid."""
        held = self.held_loops(operand)
        total = 1
        for dim in DIMS:
            if dim not in RELEVANT_DIMS[operand]:
                in_tiles = self.tile_count(dim, self.levels)
                total *= in_tiles if dim in held else self.tiles_of(dim, self.grid_tile)
        return total

    def tile_lengths(self, dim: Dim, level: int) -> dict[int, int]:
        """Extents of the tiles of a level along a dimension, and how many tiles have each."""
        index = DIMS.index(dim)
        lengths = {int(self.extent[index]): 1}
        for tile in self.tile[1 : level + 1, index].tolist():
            cut: dict[int, int] = {}
            for length, count in lengths.items():
                whole, rest = divmod(length, tile)
                for part, times in ((tile, whole), (rest, 1)):
                    if part and times:
                        cut[part] = cut.get(part, 0) + times * count
            lengths = cut
        return lengths

    def tile_count(self, dim: Dim, level: int) -> int:
        """Tiles of a level along a dimension."""
        return sum(self.tile_lengths(dim, level).values())

    def tiles_of(self, dim: Dim, inner: Counts) -> int:
        """Σ over the innermost buffer tiles of ⌈their extent / inner⌉ along a dimension."""
        step = int(inner[DIMS.index(dim)])
        return sum(count * -(-length // step) for length, count in self.tile_lengths(dim, self.levels).items())

    # ---- input extents --------------------------------------------------------------------------------------

    def touched(self, level: int) -> tuple[Counts, Counts]:
        """Distinct stored rows and columns of the input that a level's tiles touch, by number of the tile along P and
        R, and along Q and S. The level below the buffers is that of the register tiles.
        """
        if level not in self._touched:
            layer = self.layer
            tiles = np.vstack([self.tile[1:], self.grid_tile])[:level]
            found = []
            for axis, pair in enumerate(POSITION_AND_TAP):
                starts = [
                    nested_starts(layer.extent(d), np.ascontiguousarray(tiles[:, DIMS.index(d)])) for d in pair
                ]
                counts: Counts = touched_counts(
                    starts[0], starts[1], layer.stride[axis], layer.dilation[axis], layer.padding_begin[axis],
                    layer.stored_input_size[axis],
                )
                found.append(counts)
            self._touched[level] = found[0], found[1]
        return self._touched[level]

    # ---- sizes ----------------------------------------------------------------------------------------------

    def largest_tile_bits(self, operand: Operand, level: int) -> int:
        """Room that an operand's largest buffer tile of a level takes."""
        tile = self.tile[level]
        if operand == "output":
            count = math.prod(int(tile[DIMS.index(d)]) for d in RELEVANT_DIMS["output"])
            return count * self.held_bits("output", level)
        along_channels = self.largest_channel_bits(operand, level)
        if operand == "weight":
            return along_channels * math.prod(int(tile[DIMS.index(d)]) for d in ("G", "K", "R", "S"))
        rows, columns = self.touched(level)
        plain = math.prod(int(tile[DIMS.index(d)]) for d in ("G", "N"))
        return plain * along_channels * int(rows.max()) * int(columns.max())

    def channel_bits(self, operand: Operand, first: int, last: int) -> int:
        """Bits of the weights or inputs that lie on some places along C, one a channel: those up to ``last``."""
        return self.channels.bits(first, last, self.precision.stored_bits(operand), self.narrow.stored_bits(operand))

    def largest_channel_bits(self, operand: Operand, level: int) -> int:
        """The most that ``channel_bits`` gives for a tile of a level."""
        extent = int(self.tile[level, _CHANNEL])
        if self.precision.split is None:
            return extent * self.precision.stored_bits(operand)
        starts = self._channel_starts(level)
        return max(self.channel_bits(operand, first, last) for first, last in itertools.pairwise(starts))

    def _channel_starts(self, level: int, *inner: int) -> list[int]:
        """Where the tiles of a level, cut further into ``inner`` places, begin along C; and the extent."""
        tiles = np.array([*self.tile[1 : level + 1, _CHANNEL], *inner], dtype=np.int64)
        starts: list[int] = nested_starts(self.channels.count, tiles).tolist()
        return starts

    def held_bits(self, operand: Operand, level: int) -> int:
        """Bits of an element in the buffer of a level.

        A buffer that only ever receives finished outputs, because smaller ones add them up, holds them finished.
        """
        if operand == "output":
            inner = [place.level for place in self.places("output") if place.level > level]
            if inner and self.fill_multiplier("output", inner[0]) == 1:
                return self.precision.output.bits
        return self.precision.stored_bits(operand)

    def register_elements(self, operand: Operand) -> int:
        """Registers that one PE needs for an operand's register tile.

        Neighbouring taps share inputs only along directions that are not laid out over PEs or lanes.
        """
        per_pe = np.minimum(self.register_tile * self.lane_unroll, self.buffer_tile)
        size = {dim: int(per_pe[i]) for i, dim in enumerate(DIMS)}
        if operand == "output":
            return math.prod(size[d] for d in RELEVANT_DIMS["output"])
        if operand == "weight":
            return math.prod(size[d] for d in RELEVANT_DIMS["weight"])
        total = math.prod(size[d] for d in ("G", "N", "C"))
        for axis, (position, tap) in enumerate(POSITION_AND_TAP):
            count = size[position] * size[tap]
            if self.unroll[DIMS.index(position)] == 1 and self.unroll[DIMS.index(tap)] == 1:
                stride, dilation = self.layer.stride[axis], self.layer.dilation[axis]
                common = math.gcd(stride, dilation)
                count -= max(0, size[position] - dilation // common) * max(0, size[tap] - stride // common)
            total *= count
        return total

    def register_bits(self, operand: Operand) -> int:
        """Bits that one PE needs for an operand's register tile; of channels that are split the widest places count."""
        elements, bits = self.register_elements(operand), self.precision.register_bits(operand)
        if operand == "output" or self.precision.split is None:
            return elements * bits
        channels = self.channels
        places = min(int(self.register_tile[_CHANNEL] * self.lane_unroll[_CHANNEL]), int(self.buffer_tile[_CHANNEL]))
        firsts = (0, channels.narrow_places)
        widest = max(self.channel_bits(operand, first, min(first + 1, channels.count)) for first in firsts)
        return elements // places * min(places * widest, self.largest_channel_bits(operand, self.levels))

    # ---- closed-form counts ---------------------------------------------------------------------------------

    @cached_property
    def compute_cycles(self) -> int:
        """Cycles in which the grid takes steps: exact, by the product of the dimensions."""
        others = math.prod(self.tiles_of(dim, self.unroll) for dim in DIMS if dim != "C")
        return others * self._along_channels.cycles

    @cached_property
    def active_pe_steps(self) -> int:
        """Pairs of PE and step with at least one product."""
        return math.prod(self.tiles_of(dim, self.lane_unroll) for dim in DIMS)

    @cached_property
    def active_pe_cycles(self) -> int:
        """Σ over PEs of the cycles of the steps in which they have a product, each step at its part's time."""
        return self.active_pe_steps // self.tiles_of("C", self.lane_unroll) * self._along_channels.active_cycles

    @cached_property
    def narrow_pe_cycles(self) -> int:
        """How many of ``active_pe_cycles`` PEs spend on products of the narrow part alone."""
        return self.active_pe_steps // self.tiles_of("C", self.lane_unroll) * self._along_channels.narrow_active_cycles

    @cached_property
    def _along_channels(self) -> _ChannelCycles:
        """Time and work of the steps along C, as if all other dimensions had one step and one PE."""
        if self.precision.split is None:
            active = self.step_cycles * self.tiles_of("C", self.lane_unroll)
            return _ChannelCycles(self.step_cycles * self.tiles_of("C", self.unroll), active, 0)
        narrow_end, lanes = self.channels.narrow_places, int(self.lane_unroll[_CHANNEL])
        total = _ChannelCycles(0, 0, 0)
        for first, last in itertools.pairwise(self._channel_starts(self.levels, int(self.unroll[_CHANNEL]))):
            if first < last:
                step = self.narrow_step_cycles if last <= narrow_end else self.step_cycles
                pes = -(-(last - first) // lanes)
                narrow_pes = pes if last <= narrow_end else max(0, narrow_end - first) // lanes
                total = _ChannelCycles(
                    total.cycles + step, total.active_cycles + pes * step,
                    total.narrow_active_cycles + narrow_pes * step,
                )
        return total

    def steps_cycles_along_channels(self, first: int, last: int) -> int:
        """Cycles of the steps along C of a stretch of places, which begins with a step."""
        unrolled = int(self.unroll[_CHANNEL])
        steps = -(-(last - first) // unrolled)
        narrow_end = self.channels.narrow_places
        narrow = steps if last <= narrow_end else max(0, narrow_end - first) // unrolled
        return narrow * self.narrow_step_cycles + (steps - narrow) * self.step_cycles

    def products(self) -> tuple[tuple[LayerPrecision, int], ...]:
        """Precision of each part of the channels, and how many products of the layer are in it."""
        return products_of(self.layer, self.precision, self.channels)

    @cached_property
    def event_count(self) -> int:
        """Passes of the tile loop."""
        event_loops = self.buffer_event_loops
        return math.prod(
            self.tiles_of(dim, self.grid_tile) if dim in event_loops
            else self.tile_count(dim, self.levels)
            for dim in DIMS
        )

    def fill_bits(self, operand: Operand, level: int) -> int:
        """Σ of the stored bits of an operand's distinct elements over its tiles of a level, each tile once.

        The level below the buffers is that of the grid's register tiles. Outputs count as partial sums.
        """
        if operand == "output":
            return self.layer.output_count * self.precision.stored_bits("output")
        along_channels = self.channel_bits(operand, 0, self.channels.count)
        if operand == "weight":
            return self.layer.weight_count // self.channels.channels * along_channels
        rows, columns = self.touched(level)
        return self.layer.extent("G") * self.layer.extent("N") * along_channels * int(rows.sum()) * int(columns.sum())
