"""Whether a mapping fits: its loops and tiles the layer and the grid, its tiles the memories.

Shapes are checked first: what a memory must hold follows from tiles that make sense. What has a meaning, but counts for
nothing, is a mistake only where people write mappings (``problems_of_nothing``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from simulator.accelerator import LANES, Accelerator, Buffer, RegisterFile, SystolicPassing
from simulator.errors import Problem, closest
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Layer, Operand
from simulator.mapping import Mapping

if TYPE_CHECKING:
    from simulator.plan import Plan


def shape_problems(plan: Plan) -> list[Problem]:
    """What of a mapping does not lie inside the layer, on the grid, or in the loops; empty where all does."""
    problems: list[Problem] = []
    mapping, grid = plan.mapping, plan.accelerator.grid
    where = f"mapping of {plan.layer.name}"

    def wrong(path: str, value: object, rule: str, **notes: object) -> None:
        problems.append(Problem(rule, where=where, path=path, value=str(value), **notes))  # type: ignore[arg-type]

    axes = {axis.name: (axis.size, axis.unroll) for axis in grid.axes}
    axes[LANES] = (plan.accelerator.processing_element.lanes(plan.precision), grid.lane_unroll)
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
    names = ["dram", *("buffer" if plan.levels == 1 else f"buffer {n}" for n in range(1, plan.levels + 1))]
    for index, dim in enumerate(DIMS):
        for number, name in enumerate(names):
            outer = "the layer" if number < 2 else names[number - 1]
            if number and plan.tile[number, index] > plan.tile[number - 1, index]:
                wrong(f"{name}.tile.{dim}", plan.tile[number, index],
                      f"{outer} has {plan.tile[number - 1, index]}")
            order = mapping.levels[number].order
            if plan.trips[number, index] > 1 and dim not in order:
                wrong(f"{name}.order", "".join(order),
                      f"{dim} makes {plan.trips[number, index]} trips and needs a place")
    for operand in OPERANDS:
        if plan.accelerator.registers_of(operand) is None and plan.register_tile.max() > 1:
            wrong("register.tile", mapping.level("register").tile,
                  f"no register file keeps the {operand}, so a lane works on one element")
            break
    stationary = plan.timing.stationary
    if isinstance(grid.passing, SystolicPassing) and plan.register_tile.max() > 1:
        wrong("register.tile", mapping.level("register").tile, "must be 1 in a systolic grid")
    for name_of, operand_or_none in (("stationary", stationary), ("bypass", plan.bypass)):
        if operand_or_none is not None and not _is_innermost(plan, operand_or_none):
            wrong("buffer.order", "".join(mapping.level("buffer").order),
                  f"loops irrelevant to the {name_of} {operand_or_none} must be innermost")
    bypassing = [operand for operand in OPERANDS if plan.bypasses_all(operand)]
    if len(bypassing) > 1:
        wrong("bypass", bypassing, "at most one operand bypasses all its buffers in this version")
    for operand in OPERANDS:
        for buffer in plan.accelerator.buffers_of(operand):
            bypasses = mapping.bypasses(operand, plan.accelerator.level_of(buffer))
            if bypasses and operand not in buffer.may_bypass:
                wrong("bypass", operand, f"may not bypass {buffer.name}", allowed=buffer.may_bypass)
    if plan.bypass is not None and plan.accelerator.registers_of(plan.bypass) is None:
        wrong("bypass", plan.bypass, "no register file keeps it")
    return problems


def problems_of_nothing(
    layer: Layer, extents: Sequence[int], accelerator: Accelerator, mapping: Mapping
) -> list[Problem]:
    """What a mapping says that changes nothing: whoever wrote it meant something else.

    PEs and registers beyond the end of the innermost buffer tile (of one axis; several may together reach beyond, since
    no better product may exist), and tiles, orders, bypass and double buffering at levels that have none. ``extents``:
    of the layer's loops, with places for channels.
    """
    problems: list[Problem] = []
    dram, buffer, register = (mapping.level(name) for name in ("dram", "buffer", "register"))

    def wrong(path: str, value: object, rule: str) -> None:
        problems.append(Problem(rule, where=f"mapping of {layer.name}", path=path, value=str(value)))

    whole = dict(zip(DIMS, extents, strict=True))
    for path, given in (*((f"spatial.{axis}", laid) for axis, laid in mapping.spatial.items()),
                        ("register.tile", register.tile)):
        for dim, extent in given.items():
            tile = buffer.tile.get(dim, 1)
            if extent > min(tile, whole[dim]):
                wrong(f"{path}.{dim}", extent, f"the layer has {whole[dim]}" if tile >= whole[dim] else
                      f"the buffer tile has {tile}")
    for dim, extent in dram.tile.items():
        if extent != whole[dim]:
            wrong(f"dram.tile.{dim}", extent, f"the tile of DRAM is the layer, which has {whole[dim]}")
    if register.order:
        wrong("register.order", "".join(register.order), "inside a register tile there are steps, in no order")
    for operand in dram.bypass:
        wrong("dram.bypass", operand, "passes buffers by, and not DRAM")
    for operand in dram.double_buffer:
        wrong("dram.double_buffer", operand, "is held twice in buffers, and not in DRAM")
    for operand in register.bypass:
        wrong("register.bypass", operand, "passes buffers by, and not registers")
    for operand in register.double_buffer:
        levels = {accelerator.level_of(each) for each in accelerator.buffers_of(operand)}
        if not all(mapping.bypasses(operand, level) for level in levels if level < len(mapping.levels)):
            wrong("register.double_buffer", operand, "is held twice in registers only where it bypasses all buffers")
    return problems


def _is_innermost(plan: Plan, operand: Operand) -> bool:
    relevant = [dim in RELEVANT_DIMS[operand] for dim in plan.buffer_loops]
    return relevant == sorted(relevant, reverse=True)


def capacity_problems(plan: Plan) -> list[Problem]:
    """Which memories do not hold what a mapping keeps in them, as often as it does; empty where all do."""
    problems = []
    where = f"mapping of {plan.layer.name}"
    places = {operand: plan.places(operand) for operand in OPERANDS}
    for operand in OPERANDS:
        for place in places[operand]:
            if place.double_buffer and not place.memory.double_buffer:
                problems.append(
                    Problem(f"{place.memory.name} does not double-buffer", where=where, path="double_buffer",
                            value=operand)
                )
    memories: tuple[Buffer | RegisterFile, ...] = (*plan.accelerator.buffers, *plan.accelerator.register_files)
    for memory in memories:
        demand = {}
        for operand in memory.keeps:
            here = next((place for place in places[operand] if place.memory.name == memory.name), None)
            copies = 2 if here is not None and here.double_buffer else 1
            if isinstance(memory, RegisterFile):
                demand[operand] = plan.register_bits(operand) * copies
            elif here is not None:
                demand[operand] = plan.largest_tile_bits(operand, here.level) * copies
        problems += _capacity_problem(where, memory.name, memory.size_bits, demand)
    return problems


def _capacity_problem(where: str, name: str, size_bits: int, demand: dict[Operand, int]) -> list[Problem]:
    total = sum(demand.values())
    if total <= size_bits:
        return []
    parts = ", ".join(f"{operand} {bits}" for operand, bits in demand.items())
    return [
        Problem(f"needs {total} bits ({parts}) and has {size_bits}", where=where, path=name)
    ]
