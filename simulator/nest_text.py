"""A mapping as a loop nest that people read: memories and loops from the outside in, tiles, axes, lanes.

The text says what the engines walk over (``Plan``, docs/simulator.md), so it is given for mappings that are valid.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from simulator.accelerator import LANES, Accelerator, RegisterFile
from simulator.layer import DIMS, OPERANDS, Dim, Layer
from simulator.mapping import Mapping
from simulator.plan import Plan
from simulator.precision import LayerPrecision

_INDENT = "  "


def nest_text(layer: Layer, precision: LayerPrecision, accelerator: Accelerator, mapping: Mapping) -> str:
    """Return a mapping as a loop nest, one loop or memory a line, outermost first.

    Loops of one trip are left out. ``for K: 3 trips of 16, last 8`` is a loop whose last tile is smaller. Sizes are in
    bits; a tile that is held twice, so that the next one loads behind it, takes its room twice.

    Raises ``MappingError`` with every problem where the mapping does not fit the layer or the machine, and
    ``PrecisionError`` where the PE cannot run the precision.
    """
    plan = Plan(layer, precision, accelerator, mapping)
    lines = [f"{layer.name} ({layer.describe() or '1'}) in {precision.label} on {accelerator.name}"]
    if precision.split is not None:
        lines.append("along C the nest counts places of the lanes, narrow ones first: the layer is split by channel")
    lines.append(accelerator.dram.name)
    depth = 1
    lines += _loops(plan, 0, depth)
    for level in range(1, plan.levels + 1):
        heading = "buffers" if plan.levels == 1 else f"buffers of level {level}"
        lines.append(_INDENT * depth + f"{heading}: tile {_extents(plan.tile[level])}")
        depth += 1
        lines += [_INDENT * depth + line for line in _buffers(plan, level)]
        lines += _loops(plan, level, depth)
    lines.append(_INDENT * depth + f"grid: tile {_extents(np.minimum(plan.grid_tile, plan.buffer_tile))}")
    depth += 1
    lines += [_INDENT * depth + line for line in (*_axes(plan), *_registers(plan))]
    lines += [
        _INDENT * depth + f"for {dim}: {int(tile)} steps"
        for dim, tile in zip(DIMS, plan.register_tile, strict=True) if tile > 1
    ]
    return "\n".join(lines)


def _extents(tile: npt.NDArray[np.int64]) -> str:
    """``K16 C8``; dimensions of 1 are left out."""
    return " ".join(f"{dim}{int(extent)}" for dim, extent in zip(DIMS, tile, strict=True) if extent > 1) or "1"


def _loops(plan: Plan, level: int, depth: int) -> list[str]:
    """The loops of a level, 0 that of DRAM, over the next smaller tiles."""
    inner = np.vstack([plan.tile[1:], plan.grid_tile])[level]

    def text(dim: Dim) -> str:
        index = DIMS.index(dim)
        trips, tile, extent = int(plan.trips[level, index]), int(inner[index]), int(plan.tile[level, index])
        last = extent - (trips - 1) * tile
        return f"for {dim}: {trips} trips of {tile}" + (f", last {last}" if last < tile else "")

    order = plan.mapping.levels[level].order
    return [_INDENT * depth + text(dim) for dim in order if plan.trips[level, DIMS.index(dim)] > 1]


def _buffers(plan: Plan, level: int) -> list[str]:
    """What each buffer of a level holds, and what passes it by."""
    lines = []
    for buffer in plan.accelerator.buffers:
        if plan.accelerator.level_of(buffer) != level:
            continue
        parts, total = [], 0
        for operand in buffer.keeps:
            if plan.mapping.bypasses(operand, level):
                parts.append(f"{operand} passes by")
                continue
            twice = plan.mapping.doubles(operand, level)
            bits = plan.largest_tile_bits(operand, level)
            total += bits * (2 if twice else 1)
            parts.append(f"{operand} {bits:,} bits" + (" twice" if twice else ""))
        lines.append(f"{buffer.name}: {', '.join(parts)}; {total:,} of {buffer.size_bits:,} bits")
    return lines


def _axes(plan: Plan) -> list[str]:
    """What lies along each axis of the grid and on the lanes of a PE."""
    sizes = {axis.name: axis.size for axis in plan.accelerator.grid.axes}
    sizes[LANES] = plan.accelerator.processing_element.lanes(plan.precision)
    lines = []
    for name, size in sizes.items():
        unrolled = plan.mapping.spatial.get(name, {})
        # The first one counts fastest, so the order stays that of the mapping.
        factors = [f"{dim}{factor}" for dim, factor in unrolled.items() if factor > 1]
        used = math.prod(unrolled.values())
        lines.append(f"along {name}: {' '.join(factors) or 'nothing'} ({used} of {size})")
    return lines


def _registers(plan: Plan) -> list[str]:
    """What the registers of a PE hold."""
    lines = []
    for file in plan.accelerator.register_files:
        parts, total = [], 0
        for operand in file.keeps:
            place = plan.places(operand)[-1]
            twice = isinstance(place.memory, RegisterFile) and place.double_buffer
            bits = plan.register_bits(operand)
            total += bits * (2 if twice else 1)
            parts.append(f"{operand} {bits:,} bits" + (" twice" if twice else ""))
        lines.append(f"{file.name} of a PE: {', '.join(parts)}; {total:,} of {file.size_bits:,} bits")
    without = [operand for operand in OPERANDS if plan.accelerator.registers_of(operand) is None]
    if without:
        lines.append(f"read anew for every step: {', '.join(without)}")
    return lines
