"""Constraints that ask, each by itself, for what the layer or the machine have not: said before anything is searched.

What only all of them together forbid is found by ``constrained_space``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from mapper.constraints import TILE, ConstraintsByLevel, MappingConstraints, level_names
from simulator.accelerator import LANES, Accelerator, SystolicPassing
from simulator.errors import Problem, closest
from simulator.layer import OPERANDS, Layer, Operand
from simulator.precision import LayerPrecision


def impossible(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, constraints: MappingConstraints
) -> Iterator[Problem]:
    """Name each constraint that no mapping of a layer on a machine can keep."""
    where = f"constraints on {layer.name}"
    asked = constraints.by_level(accelerator.buffer_levels)
    names = level_names(accelerator.buffer_levels)
    for path in asked.unknown:
        yield Problem("the machine has no such level", where, path, allowed=(*names, "buffer"),
                      did_you_mean=closest(path.partition(".")[2], [*names, "buffer"]))
    grid = accelerator.grid
    axes = {axis.name: (axis.size, axis.unroll) for axis in grid.axes}
    axes[LANES] = (accelerator.processing_element.lanes(precision), grid.lane_unroll)
    for name, wishes in constraints.spatial.items():
        if name not in axes:
            yield Problem("the grid has no such axis", where, f"spatial.{name}", allowed=tuple(axes),
                          did_you_mean=closest(name, list(axes)))
            continue
        size, allowed = axes[name]
        for dim, wish in wishes.items():
            if wish.least > 1 and dim not in allowed:
                yield Problem("may not lie along this axis", where, f"spatial.{name}.{dim}", str(wish.least), allowed)
        together = math.prod(wish.least for wish in wishes.values())
        if together > size:
            parts = " · ".join(f"{dim} {wish.least}" for dim, wish in wishes.items())
            yield Problem(f"needs {together} along the axis, which has {size}; factors of {size} together, or an axis "
                          f"of {together}, would fit", where, f"spatial.{name}", parts)
    factors = [(f"spatial.{name}.{dim}", dim, wish) for name, wishes in constraints.spatial.items()
               for dim, wish in wishes.items()]
    factors += [(f"register_tile.{dim}", dim, wish) for dim, wish in constraints.register_tile.items()]
    factors += [(path, dim, wish) for path, _, _, dim, wish in asked.numbers]
    for path, dim, wish in factors:
        if wish.least > layer.extent(dim):
            yield Problem(f"the layer has {layer.extent(dim)} along {dim}", where, path, str(wish.least))
    without = [operand for operand in OPERANDS if accelerator.registers_of(operand) is None]
    for dim, wish in constraints.register_tile.items():
        if wish.least > 1 and isinstance(grid.passing, SystolicPassing):
            yield Problem("must be 1 in a systolic grid", where, f"register_tile.{dim}", str(wish.least))
        elif wish.least > 1 and without:
            yield Problem(f"no register file keeps the {without[0]}, so a lane works on one element", where,
                          f"register_tile.{dim}", str(wish.least))
    yield from _together(layer, asked, where)
    yield from _trips_over_tiles(layer, asked, where)
    yield from _of_operands(accelerator, asked, where)


def _together(layer: Layer, asked: ConstraintsByLevel, where: str) -> Iterator[Problem]:
    """Tiles that are smaller than one inside them must be."""
    tiles = [(path, level, dim, wish) for path, kind, level, dim, wish in asked.numbers if kind == TILE]
    for path, level, dim, wish in tiles:
        most = wish.exactly or wish.at_most or layer.extent(dim)
        for inside, inner, other, least in tiles:
            if other == dim and inner > level and least.least > most:
                yield Problem(f"{inside} wants {least.least} or more inside this tile", where, path, str(wish))


def _trips_over_tiles(layer: Layer, asked: ConstraintsByLevel, where: str) -> Iterator[Problem]:
    """Trips of the DRAM loops that no tile makes, or none of those that are allowed: ⌈extent / tile⌉ skips numbers."""
    for path, kind, level, dim, wish in asked.numbers:
        extent = layer.extent(dim)
        if kind == TILE or level != 0 or wish.least > extent:
            continue
        tiles = np.arange(1, extent + 1)
        said = []
        for other, other_kind, other_level, other_dim, other_wish in asked.numbers:
            if (other_kind, other_level, other_dim) == (TILE, 1, dim) and other_wish.least <= extent:
                tiles = tiles[other_wish.holds(tiles)]
                said.append(f"{other}={other_wish}")
        trips = -(-extent // tiles)
        if len(tiles) == 0 or wish.holds(trips).any():
            continue
        near = [tiles[trips < wish.least][:1], tiles[trips > wish.least][-1:]]
        made = ", ".join(f"tiles of {tile} make {-(-extent // tile)}" for some in near for tile in some.tolist())
        among = f" with {' and '.join(said)}" if said else ""
        yield Problem(f"no tile of the {extent} along {dim}{among} makes such trips: {made}", where, path, str(wish))


def _of_operands(accelerator: Accelerator, asked: ConstraintsByLevel, where: str) -> Iterator[Problem]:
    """What no memory allows: to hold, to pass by, to double-buffer an operand."""
    levels = accelerator.buffer_levels
    kept = tuple(operand for operand in OPERANDS if accelerator.registers_of(operand) is not None)
    for path, level, held in asked.stationary:
        if level == levels and held not in kept:
            yield Problem("no register file keeps it, so the loops of the buffer cannot hold it", where, path, held,
                          kept)
    for path, level_or_all, operand, wish in asked.bypass:
        buffers = [
            buffer for buffer in accelerator.buffers_of(operand)
            if level_or_all in (None, accelerator.level_of(buffer))
        ]
        refusing = [buffer.name for buffer in buffers if operand not in buffer.may_bypass]
        if not buffers:
            yield Problem("no buffer of this level keeps it", where, path, str(wish).lower())
        elif wish and refusing:
            yield Problem(f"may not bypass {refusing[0]}; may_bypass: [{operand}] in the machine would allow it", where,
                          path, "true", ("false",))
        elif wish and level_or_all is None and operand not in kept:
            yield Problem("no register file keeps it, which a bypassing operand needs", where, path, "true", ("false",))
    for path, level_or_all, operand, wish in asked.double_buffer:
        if wish:
            yield from _cannot_double(accelerator, path, level_or_all, operand, where)


def _cannot_double(
    accelerator: Accelerator, path: str, level: int | None, operand: Operand, where: str
) -> Iterator[Problem]:
    """Why an operand cannot be held twice: at a level, or (None) at every level that it has to pass."""
    buffers = [buffer for buffer in accelerator.buffers_of(operand) if level in (None, accelerator.level_of(buffer))]
    if not buffers:
        yield Problem("no buffer of this level keeps it", where, path, "true", ("false",))
        return
    refusing = [
        buffer.name for buffer in buffers
        if not buffer.double_buffer and (level is not None or operand not in buffer.may_bypass)
    ]
    file = accelerator.registers_of(operand)
    if level is None and not any(buffer.double_buffer for buffer in buffers):
        # What bypasses all of them may be held twice in registers.
        refusing = [] if file is not None and file.double_buffer else [buffers[0].name]
    if refusing:
        yield Problem(f"{refusing[0]} does not double-buffer; double_buffer: true in the machine would allow it",
                      where, path, "true", ("false",))


