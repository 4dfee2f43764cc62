"""In which order a mapping lets the machine add the products of one output (docs/simulator.md, "Values").

The order is the same for all outputs of a layer: tiles cut the reduced dimensions alike for each, and the PEs that work
on one output stand in the same order as those that work on another. So it is laid out once, as a list of *groups* of
*steps* of products: a step's products are added over the lanes, a group's steps one after the other, and the groups
onto the output. A group is what one PE adds up during a visit or, where partial sums travel down the columns of a
systolic array, what one column adds up in a step; where its rows are multicast, an adder tree takes that.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from simulator.kernels.functional import Order
from simulator.layer import DIMS, REDUCTION_DIMS, Dim
from simulator.plan import Counts, Plan

Box = dict[Dim, range]
Place = tuple[int, ...]
_REDUCED: tuple[Dim, ...] = tuple(dim for dim in DIMS if dim in REDUCTION_DIMS)


def addition_order(plan: Plan, *, chain: bool) -> Order:
    """Lay out the additions of one output; products count through C, R, S, the last fastest.

    ``chain``: a PE adds its lanes one after the other.
    """
    grid = plan.accelerator.grid
    places = _places(plan)
    products: list[int] = []
    step_end: list[int] = []
    group_end: list[int] = []
    for visit in _visits(plan):
        for group in _columns(visit, places) if grid.hands_sums_down else _elements(visit, places):
            for step, number in group:
                found = _products(plan, step, number)
                if found:
                    products += found
                    step_end.append(len(products))
            if len(step_end) > (group_end[-1] if group_end else 0):
                group_end.append(len(step_end))
    lanes = plan.accelerator.processing_element.lanes(plan.precision)
    first, second, third = (np.array(places, dtype=np.int64) for places in (products, step_end, group_end))
    return Order(first, second, third, lanes, chain, grid.adds_columns_as_trees)


def _elements(visit: list[Box], places: dict[Place, dict[Dim, int]]) -> Iterator[list[tuple[Box, dict[Dim, int]]]]:
    """PE by PE, its steps in a visit."""
    for number in places.values():
        yield [(step, number) for step in visit]


def _columns(visit: list[Box], places: dict[Place, dict[Dim, int]]) -> Iterator[list[tuple[Box, dict[Dim, int]]]]:
    """Step by step and column by column, the PEs from top to bottom."""
    columns = sorted({column for _, column in places})
    for step in visit:
        for column in columns:
            yield [(step, number) for (_, own), number in places.items() if own == column]


def _products(plan: Plan, step: Box, number: dict[Dim, int]) -> list[int]:
    """Products of a PE in a step, in the order of its lanes."""
    mine = []
    for dim in _REDUCED:
        lanes = int(plan.lane_unroll[DIMS.index(dim)])
        begin = step[dim].start + number[dim] * lanes
        mine.append(range(begin, min(begin + lanes, step[dim].stop)))
    rows, columns = plan.layer.extent("R"), plan.layer.extent("S")
    return [(c * rows + r) * columns + s for c, r, s in itertools.product(*mine)]


def _places(plan: Plan) -> dict[Place, dict[Dim, int]]:
    """PEs that work on one output, in the order of their positions, and their numbers along the reduced dimensions."""
    found = {}
    axes = plan.accelerator.grid.axes
    for place in itertools.product(*(range(axis.size) for axis in axes)):
        number = dict.fromkeys(DIMS, 0)
        in_use = True
        for axis, rest in zip(axes, place, strict=True):
            for dim, factor in plan.mapping.spatial.get(axis.name, {}).items():
                number[dim] = number[dim] * factor + rest % factor
                rest //= factor
            in_use = in_use and rest == 0
        if in_use and not any(number[dim] for dim in DIMS if dim not in REDUCTION_DIMS):
            found[place] = number
    return found


def _visits(plan: Plan) -> Iterator[list[Box]]:
    """The steps of each visit to an output, as far as they matter to its sum: what the grid works on at once."""
    kept = plan.accelerator.registers_of("output") is not None
    whole: Box = {dim: range(plan.layer.extent(dim)) for dim in _REDUCED}
    held = plan.held_loops("output")
    inner = [dim for dim in plan.buffer_loops if dim in REDUCTION_DIMS]
    apart = [dim for dim in inner if dim not in held]
    for tile in _buffer_tiles(whole, plan, 0):
        for outer in _cut(tile, plan.grid_tile, apart):
            visit = []
            for box in _cut(outer, plan.grid_tile, [dim for dim in inner if dim in held]):
                for step in _cut(box, plan.unroll, list(_REDUCED)):
                    if kept:
                        visit.append(step)
                    else:
                        yield [step]
            if kept:
                yield visit


def _buffer_tiles(box: Box, plan: Plan, level: int) -> Iterator[Box]:
    """Innermost buffer tiles inside the tile of a level, in the order of the loops."""
    if level == plan.levels:
        yield box
        return
    order = [dim for dim, at in plan.event_loops if at == level]
    for part in _cut(box, plan.tile[level + 1], order):
        yield from _buffer_tiles(part, plan, level + 1)


def _cut(whole: Box, size: Counts, order: list[Dim]) -> Iterator[Box]:
    """Tiles of a box along the reduced dimensions in ``order``, the last one fastest. ``size`` (8,): their extents."""
    dims = [dim for dim in order if dim in REDUCTION_DIMS]
    parts = []
    for dim in dims:
        extent = int(size[DIMS.index(dim)])
        parts.append([range(begin, min(begin + extent, whole[dim].stop)) for begin in whole[dim][::extent]])
    for chosen in itertools.product(*parts):
        yield whole | dict(zip(dims, chosen, strict=True))
