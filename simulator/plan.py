"""From the data model to plain numbers: checks a mapping, and lays out what the engines walk over.

``docs/simulator.md`` has the meaning of every number here. A ``Plan`` is made once for a layer, precision, machine
and mapping; ``fast`` and ``bound`` both start from it, so that they cannot differ in what they were asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from simulator.accelerator import LANES, Accelerator, MulticastPassing, SystolicPassing
from simulator.errors import MappingError, Problem, closest
from simulator.kernels import nested_starts, tile_starts, touched_counts
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.mapping import Mapping
from simulator.precision import LayerPrecision

Counts = npt.NDArray[np.int64]
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
    pipeline = accelerator.processing_element.pipeline_cycles
    if isinstance(passing, MulticastPassing):
        return GridTiming(0, pipeline, overlap=True, preload=False, stationary=None)
    rows, columns = (axis.size for axis in accelerator.grid.axes)
    pipeline += passing.pipeline_cycles
    if passing.stationary == "output":
        tail = (rows - 1) + (columns - 1) + pipeline + (rows if passing.drains_outputs else 0)
    else:
        tail = (rows * passing.partial_sum_hop_cycles - 1) + (columns - 1) + pipeline
    return GridTiming(
        load_cycles=rows if passing.stationary in ("weight", "input") else 0,
        tail_cycles=tail,
        overlap=passing.fold_overlap or passing.stationary is None,
        preload=passing.stationary_preload,
        stationary=passing.stationary,
        drain_cycles=rows if passing.stationary == "output" and passing.drains_outputs else 0,
    )


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
        self.timing = grid_timing(accelerator)
        self.step_cycles = accelerator.processing_element.cycles_per_step(precision)
        buffer, register = mapping.level("buffer"), mapping.level("register")
        self.extent = np.array(layer.shape, dtype=np.int64)
        self.buffer_tile = np.array([buffer.tile.get(dim, 1) for dim in DIMS], dtype=np.int64)
        self.unroll = np.array([mapping.unrolled(dim) for dim in DIMS], dtype=np.int64)
        self.lane_unroll = np.array(
            [mapping.spatial.get(LANES, {}).get(dim, 1) for dim in DIMS], dtype=np.int64
        )
        self.register_tile = np.array([register.tile.get(dim, 1) for dim in DIMS], dtype=np.int64)
        self.grid_tile = self.unroll * self.register_tile
        self.dram_trips = -(-self.extent // self.buffer_tile)
        self.buffer_trips = -(-self.buffer_tile // self.grid_tile)
        problems = self._shape_problems()
        if not problems:
            problems = self._capacity_problems()
        if problems:
            raise MappingError(problems)

    # ---- what the mapping says ------------------------------------------------------------------------------

    @cached_property
    def bypass(self) -> Operand | None:
        """The operand that bypasses its buffer."""
        return self.mapping.bypass[0] if self.mapping.bypass else None

    @cached_property
    def dram_loops(self) -> tuple[Dim, ...]:
        """Loops over buffer tiles with more than one trip, outermost first."""
        return tuple(d for d in self.mapping.level("dram").order if self.dram_trips[DIMS.index(d)] > 1)

    @cached_property
    def buffer_loops(self) -> tuple[Dim, ...]:
        """Loops over register tiles with more than one nominal trip, outermost first."""
        return tuple(d for d in self.mapping.level("buffer").order if self.buffer_trips[DIMS.index(d)] > 1)

    @cached_property
    def buffer_event_loops(self) -> tuple[Dim, ...]:
        """Buffer loops whose iterations are events of their own: those relevant to the bypassing operand."""
        if self.bypass is None:
            return ()
        return tuple(d for d in self.buffer_loops if d in RELEVANT_DIMS[self.bypass])

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

    def dram_multiplier(self, operand: Operand) -> int:
        """How often each element of an operand passes between DRAM and chip: trips of irrelevant outer loops."""
        loops = self.dram_loops
        if operand == self.bypass and self.buffer_event_loops:
            inner_relevant = len(loops)
        else:
            inner_relevant = max((i + 1 for i, d in enumerate(loops) if d in RELEVANT_DIMS[operand]), default=0)
        return math.prod(
            int(self.dram_trips[DIMS.index(d)])
            for d in loops[:inner_relevant]
            if d not in RELEVANT_DIMS[operand]
        )

    def grid_multiplier(self, operand: Operand) -> int:
        """How often each fetched element of an operand passes between its buffer and the grid."""
        held = self.held_loops(operand)
        total = 1
        for dim in DIMS:
            if dim in RELEVANT_DIMS[operand]:
                continue
            index = DIMS.index(dim)
            total *= int(self.dram_trips[index]) if dim in held else self.tiles_of(dim, self.grid_tile)
        return total

    def tiles_of(self, dim: Dim, inner: Counts) -> int:
        """Σ over buffer tiles of ⌈their extent / inner⌉ along a dimension."""
        index = DIMS.index(dim)
        extent, tile, step = int(self.extent[index]), int(self.buffer_tile[index]), int(inner[index])
        whole, rest = divmod(extent, tile)
        return whole * -(-tile // step) + -(-rest // step)

    # ---- input extents --------------------------------------------------------------------------------------

    def touched(self, axis: int, position_tiles: Counts, tap_tiles: Counts) -> Counts:
        """Distinct stored rows (axis 0) or columns (axis 1) of each pair of position tile and tap tile."""
        layer = self.layer
        counts: Counts = touched_counts(
            position_tiles, tap_tiles, layer.stride[axis], layer.dilation[axis], layer.padding_begin[axis],
            layer.stored_input_size[axis],
        )
        return counts

    @cached_property
    def buffer_touched(self) -> tuple[Counts, Counts]:
        """Rows and columns of the input's buffer tiles, by trip of (P, R) and of (Q, S)."""
        found = []
        for axis, pair in enumerate(POSITION_AND_TAP):
            tiles = [tile_starts(self.layer.extent(d), int(self.buffer_tile[DIMS.index(d)])) for d in pair]
            found.append(self.touched(axis, tiles[0], tiles[1]))
        return found[0], found[1]

    @cached_property
    def grid_touched(self) -> tuple[Counts, Counts]:
        """Rows and columns of the input's register tiles, by trip of P, R within buffer tiles."""
        found = []
        for axis, pair in enumerate(POSITION_AND_TAP):
            tiles = []
            for dim in pair:
                index = DIMS.index(dim)
                outer, inner = int(self.buffer_tile[index]), int(self.grid_tile[index])
                tiles.append(nested_starts(self.layer.extent(dim), outer, inner))
            found.append(self.touched(axis, tiles[0], tiles[1]))
        return found[0], found[1]

    # ---- sizes ----------------------------------------------------------------------------------------------

    def largest_tile_elements(self, operand: Operand) -> int:
        """Elements of an operand's largest buffer tile."""
        if operand != "input":
            return math.prod(int(self.buffer_tile[DIMS.index(d)]) for d in RELEVANT_DIMS[operand])
        rows, columns = self.buffer_touched
        plain = math.prod(int(self.buffer_tile[DIMS.index(d)]) for d in ("G", "N", "C"))
        return plain * int(rows.max()) * int(columns.max())

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

    # ---- checks ---------------------------------------------------------------------------------------------

    def _shape_problems(self) -> list[Problem]:
        problems: list[Problem] = []
        mapping, grid = self.mapping, self.accelerator.grid
        where = f"mapping of {self.layer.name}"

        def wrong(path: str, value: object, rule: str, **notes: object) -> None:
            problems.append(Problem(rule, where=where, path=path, value=str(value), **notes))  # type: ignore[arg-type]

        axes = {axis.name: (axis.size, axis.unroll) for axis in grid.axes}
        axes[LANES] = (self.accelerator.processing_element.lanes(self.precision), grid.lane_unroll)
        for name, unrolled in mapping.spatial.items():
            if name not in axes:
                wrong("spatial", name, "the grid has no such axis", allowed=tuple(axes),
                      did_you_mean=closest(name, list(axes)))
                continue
            size, allowed = axes[name]
            used = math.prod(unrolled.values())
            if used > size:
                wrong(f"spatial.{name}", used, f"the axis has {size}")
            for dim, factor in unrolled.items():
                if factor > 1 and dim not in allowed:
                    wrong(f"spatial.{name}.{dim}", factor, "may not lie along this axis", allowed=allowed)
        for index, dim in enumerate(DIMS):
            if self.buffer_tile[index] > self.extent[index]:
                wrong(f"buffer.tile.{dim}", self.buffer_tile[index], f"the layer has {self.extent[index]}")
            for level, trips in (("dram", self.dram_trips), ("buffer", self.buffer_trips)):
                if trips[index] > 1 and dim not in mapping.level(level).order:  # type: ignore[arg-type]
                    wrong(f"{level}.order", "".join(mapping.level(level).order),  # type: ignore[arg-type]
                          f"{dim} makes {trips[index]} trips and needs a place")
        for operand in OPERANDS:
            if self.accelerator.registers_of(operand) is None and self.register_tile.max() > 1:
                wrong("register.tile", mapping.level("register").tile,
                      f"no register file keeps the {operand}, so a lane works on one element")
                break
        stationary = self.timing.stationary
        if isinstance(grid.passing, SystolicPassing) and self.register_tile.max() > 1:
            wrong("register.tile", mapping.level("register").tile, "must be 1 in a systolic grid")
        for name_of, operand_or_none in (("stationary", stationary), ("bypass", self.bypass)):
            if operand_or_none is not None and not self._is_innermost(operand_or_none):
                wrong("buffer.order", "".join(mapping.level("buffer").order),
                      f"loops irrelevant to the {name_of} {operand_or_none} must be innermost")
        if len(mapping.bypass) > 1:
            wrong("bypass", list(mapping.bypass), "at most one operand bypasses in this version")
        elif self.bypass is not None:
            buffer = self.accelerator.buffer_of(self.bypass)
            if self.bypass not in buffer.may_bypass:
                wrong("bypass", self.bypass, f"may not bypass {buffer.name}", allowed=buffer.may_bypass)
            if self.accelerator.registers_of(self.bypass) is None:
                wrong("bypass", self.bypass, "no register file keeps it")
        return problems

    def _is_innermost(self, operand: Operand) -> bool:
        relevant = [dim in RELEVANT_DIMS[operand] for dim in self.buffer_loops]
        return relevant == sorted(relevant, reverse=True)

    def _capacity_problems(self) -> list[Problem]:
        problems = []
        where = f"mapping of {self.layer.name}"
        for operand in self.mapping.double_buffer:
            if operand == self.bypass:
                file = self.accelerator.registers_of(operand)
                allowed, name = bool(file and file.double_buffer), file.name if file else ""
            else:
                buffer = self.accelerator.buffer_of(operand)
                allowed, name = buffer.double_buffer, buffer.name
            if not allowed:
                problems.append(
                    Problem(f"{name} does not double-buffer", where=where, path="double_buffer", value=operand)
                )
        for buffer in self.accelerator.buffers:
            kept = [operand for operand in buffer.keeps if operand != self.bypass]
            demand = {
                operand: self.largest_tile_elements(operand)
                * self.precision.stored_bits(operand)
                * (2 if operand in self.mapping.double_buffer else 1)
                for operand in kept
            }
            problems += self._capacity_problem(where, buffer.name, buffer.size_bits, demand)
        for file in self.accelerator.register_files:
            demand = {
                operand: self.register_elements(operand)
                * self.precision.register_bits(operand)
                * (2 if operand == self.bypass and operand in self.mapping.double_buffer else 1)
                for operand in file.keeps
            }
            problems += self._capacity_problem(where, file.name, file.size_bits, demand)
        return problems

    @staticmethod
    def _capacity_problem(where: str, name: str, size_bits: int, demand: dict[Operand, int]) -> list[Problem]:
        total = sum(demand.values())
        if total <= size_bits:
            return []
        parts = ", ".join(f"{operand} {bits}" for operand, bits in demand.items())
        return [
            Problem(f"needs {total} bits ({parts}) and has {size_bits}", where=where, path=name)
        ]

    # ---- closed-form counts ---------------------------------------------------------------------------------

    @cached_property
    def compute_cycles(self) -> int:
        """Cycles in which the grid takes steps: exact, by the product of the dimensions."""
        return self.step_cycles * math.prod(self.tiles_of(dim, self.unroll) for dim in DIMS)

    @cached_property
    def active_pe_steps(self) -> int:
        """Pairs of PE and step with at least one product."""
        return math.prod(self.tiles_of(dim, self.lane_unroll) for dim in DIMS)

    @cached_property
    def event_count(self) -> int:
        """Passes of the tile loop."""
        event_loops = self.buffer_event_loops
        return math.prod(
            self.tiles_of(dim, self.grid_tile) if dim in event_loops else int(self.dram_trips[DIMS.index(dim)])
            for dim in DIMS
        )

    def buffer_fill_elements(self, operand: Operand) -> int:
        """Σ of an operand's distinct elements over its buffer tiles, each tile once."""
        return self._sum_over_tiles(operand, self.buffer_touched)

    def grid_fetch_elements(self, operand: Operand) -> int:
        """Σ of an operand's distinct elements over the grid's register tiles, each tile once."""
        return self._sum_over_tiles(operand, self.grid_touched)

    def _sum_over_tiles(self, operand: Operand, touched: tuple[Counts, Counts]) -> int:
        if operand == "weight":
            return self.layer.weight_count
        if operand == "output":
            return self.layer.output_count
        plain = math.prod(self.layer.extent(d) for d in ("G", "N", "C"))
        return plain * int(touched[0].sum()) * int(touched[1].sum())
