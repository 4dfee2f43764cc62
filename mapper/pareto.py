"""Fronts of points where less is better in every column: which points stand, and how much they dominate.

Numbers in, numbers out: nothing here knows what the columns mean.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.errors import BitmosaicError, Problem

Points = npt.NDArray[np.float64]


def dominates(first: npt.ArrayLike, second: npt.ArrayLike) -> bool:
    """Whether ``first`` is nowhere greater than ``second`` and somewhere less.

    >>> dominates([1, 2], [1, 3]), dominates([1, 2], [1, 2])
    (True, False)
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return bool((a <= b).all() and (a < b).any())


def pareto_front(points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Mark the points of shape ``(n, k)`` that no other one dominates; of equal points, the first.

    Infinite values are ordinary (an infinite cost is a bad one). Raises ``BitmosaicError`` for NaN, which has no
    place in an order. Time O(n log n) for k = 2, else O(n · front).

    >>> pareto_front([[1, 4], [2, 2], [2, 3], [2, 2]]).tolist()
    [True, True, False, False]
    """
    table = _table(points)
    count, columns = table.shape
    mask = np.zeros(count, dtype=np.bool_)
    if count == 0:
        return mask
    # In this order a point can only be dominated, or equalled, by one before it; the sort is stable.
    order = np.lexsort(table.T[::-1])
    ordered = table[order]
    if columns <= 2:
        last = ordered[:, -1]
        best_before = np.minimum.accumulate(last)[:-1]
        kept = np.concatenate(([True], last[1:] < best_before))
        if columns == 1:
            kept[1:] = False
        mask[order[kept]] = True
        return mask
    front = np.empty_like(ordered)
    size = 0
    for index, point in zip(order, ordered, strict=True):
        if not (front[:size] <= point).all(axis=1).any():
            front[size] = point
            size += 1
            mask[index] = True
    return mask


def hypervolume(points: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Area that two-column points dominate inside the corner ``reference`` (points beyond it add nothing).

    >>> hypervolume([[1, 2], [2, 1]], [3, 3])
    3.0
    """
    table = _table(points)
    corner = np.asarray(reference, dtype=np.float64)
    if table.shape[1] != 2 or corner.shape != (2,):
        raise BitmosaicError(
            Problem("the area is for two columns", path="points", value=f"{table.shape[1]} columns")
        )
    inside = table[(table < corner).all(axis=1)]
    front = inside[pareto_front(inside)]
    front = front[np.argsort(front[:, 0])]
    rights = np.append(front[1:, 0], corner[0])
    return float(((rights - front[:, 0]) * (corner[1] - front[:, 1])).sum())


def _table(points: npt.ArrayLike) -> Points:
    table = np.asarray(points, dtype=np.float64)
    if table.size == 0:
        table = table.reshape(0, table.shape[1] if table.ndim == 2 else 2)
    if table.ndim != 2:
        raise BitmosaicError(Problem("must have the shape (points, columns)", path="points", value=str(table.shape)))
    if np.isnan(table).any():
        raise BitmosaicError(Problem("NaN has no place in a front", path="points", value="NaN"))
    return table
