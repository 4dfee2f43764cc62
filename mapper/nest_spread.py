"""Spatial loops on the axes of an array: which factors fit together, and how they are laid out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mapper.nest_options import Extents, Group, cuts
from simulator.counting_rules.loop_nest import Loop, Machine
from simulator.layer import RELEVANT_DIMS, Dim


def axis_uses(group: Group, spread: Extents, machine: Machine) -> set[Extents]:
    """Every way in which a group's spatial factors share the axes: the positions they take of each."""
    uses = {tuple(1 for _ in machine.axes)}
    for dim, trips in zip(group.dims, spread, strict=True):
        allowed = [number for number, axis in enumerate(machine.axes)
                   if axis not in machine.must_reuse or dim not in RELEVANT_DIMS[machine.must_reuse[axis]]]
        added = set()
        for use, cut in itertools.product(uses, cuts(trips, len(allowed))):
            taken = list(use)
            for number, factor in zip(allowed, cut, strict=True):
                taken[number] *= factor
            if all(one <= size for one, size in zip(taken, machine.axes.values(), strict=True)):
                added.add(tuple(taken))
        uses = added
    return uses


def possible_spreads(groups: Sequence[Group], machine: Machine) -> tuple[list[list[Extents]], npt.NDArray[np.bool_]]:
    """Return the spatial factors each group may have (the first: none), and which of them the axes hold together."""
    spreads: list[list[Extents]] = []
    uses: list[list[set[Extents]]] = []
    for group in groups:
        known = [(spread, axis_uses(group, spread, machine)) for spread in group.tiles]
        spreads.append([spread for spread, use in known if use])
        uses.append([use for _, use in known if use])
    fits = np.zeros(math.prod(len(options) for options in spreads), dtype=np.bool_)
    stride = strides([len(options) for options in spreads])
    sizes = tuple(machine.axes.values())

    def mark(level: int, number: int, together: set[Extents]) -> None:
        if level == len(groups):
            fits[number] = True
            return
        for index, own in enumerate(uses[level]):
            joint = {tuple(a * b for a, b in zip(first, second, strict=True)) for first in together for second in own}
            joined = {use for use in joint if all(one <= size for one, size in zip(use, sizes, strict=True))}
            if joined:
                mark(level + 1, number + index * stride[level], joined)

    mark(0, 0, {tuple(1 for _ in machine.axes)})
    return spreads, fits


def strides(counts: Sequence[int]) -> list[int]:
    """Weights that number all combinations of so many choices, the last choice counting fastest.

    >>> strides([2, 3, 4])
    [12, 4, 1]
    """
    return [math.prod(counts[level + 1:]) for level in range(len(counts))]


def laid_out(groups: list[Group], spreads: list[Extents], machine: Machine) -> dict[str, tuple[Loop, ...]]:
    """Lay spatial factors out on the axes: the first way that fits."""
    wanted: list[tuple[Dim, int]] = [
        (dim, trips) for group, spread in zip(groups, spreads, strict=True)
        for dim, trips in zip(group.dims, spread, strict=True) if trips > 1
    ]
    axes = list(machine.axes)

    def place(number: int, free: list[int], laid: dict[str, tuple[Loop, ...]]) -> dict[str, tuple[Loop, ...]] | None:
        if number == len(wanted):
            return laid
        dim, trips = wanted[number]
        for cut in cuts(trips, len(axes)):
            left = [size // factor for size, factor in zip(free, cut, strict=True)]
            if min(left, default=1) < 1 or any(
                factor > 1 and axis in machine.must_reuse and dim in RELEVANT_DIMS[machine.must_reuse[axis]]
                for axis, factor in zip(axes, cut, strict=True)
            ):
                continue
            added = {axis: (*laid.get(axis, ()), Loop(dim, factor)) if factor > 1 else laid.get(axis, ())
                     for axis, factor in zip(axes, cut, strict=True)}
            found = place(number + 1, left, added)
            if found is not None:
                return found
        return None

    found = place(0, list(machine.axes.values()), {})
    assert found is not None
    return found
