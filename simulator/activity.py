"""How often each PE of the grid works under a mapping, in closed form.

In one step PE ``o`` along dimension ``d`` works where elements are left for it: elements go to lanes first, then to
PEs (docs/simulator.md, "The loop nest"). A buffer tile with ``b`` elements along ``d`` thus gives it
``⌈(b − o·lanes_d) / u_d⌉`` steps (none below 0), and dimensions multiply.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from simulator.layer import DIMS, Dim
from simulator.plan import Plan


def step_count(plan: Plan) -> int:
    """Steps that the grid takes in a layer."""
    return math.prod(plan.tiles_of(dim, plan.unroll) for dim in DIMS)


def active_steps(plan: Plan) -> npt.NDArray[np.int64]:
    """Steps in which each PE works on at least one product, int64 of shape (size of each axis of the grid).

    Padding zeros are products. The sum is ``plan.active_pe_steps``.
    """
    axes = plan.accelerator.grid.axes
    shape = tuple(axis.size for axis in axes)
    number = {dim: np.zeros(shape, dtype=np.int64) for dim in DIMS}
    in_use = np.ones(shape, dtype=np.bool_)
    for axis, rest in zip(axes, np.indices(shape), strict=True):
        # The last axis counts fastest; of dimensions that share one, the first named.
        for dim, factor in plan.mapping.spatial.get(axis.name, {}).items():
            number[dim] = number[dim] * factor + rest % factor
            rest = rest // factor
        in_use &= rest == 0
    active = in_use.astype(np.int64)
    for place, dim in enumerate(DIMS):
        steps = np.array([_steps(plan, dim, pe) for pe in range(int(plan.unroll[place] // plan.lane_unroll[place]))])
        active *= steps[number[dim]]
    return active


def _steps(plan: Plan, dim: Dim, pe: int) -> int:
    """Σ over buffer tiles of the steps along a dimension in which the PE of that number has an element."""
    place = DIMS.index(dim)
    held, before = int(plan.unroll[place]), pe * int(plan.lane_unroll[place])
    lengths = plan.tile_lengths(dim, plan.levels)
    return sum(count * -(-max(0, length - before) // held) for length, count in lengths.items())
