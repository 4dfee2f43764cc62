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
    """Volume that points of shape ``(n, k)`` dominate inside the corner ``reference``; points beyond it add nothing.

    For k > 2 a point at a time adds what it alone dominates: WFG of While, Bradstreet and Barone, "A fast way of
    calculating exact hypervolumes", IEEE Transactions on Evolutionary Computation 16(1), 2012. Time O(n log n) for
    k ≤ 2; seconds for some hundred points of a front with k = 4.

    Raises ``BitmosaicError`` for NaN and −∞, for a corner of another length, and for one that is not finite.

    >>> hypervolume([[1, 2], [2, 1]], [3, 3]), hypervolume([[0, 1, 1], [1, 0, 0]], [2, 2, 2])
    (3.0, 5.0)
    """
    table = _table(points)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != table.shape[1:] and table.size:
        raise BitmosaicError(
            Problem("must have a value for each column of the points", path="reference", value=f"shape {corner.shape}",
                    allowed=(f"shape {table.shape[1:]}",))
        )
    if not np.isfinite(corner).all():
        raise BitmosaicError(Problem("must be finite", path="reference", value=str(corner.tolist())))
    if np.isneginf(table).any():
        raise BitmosaicError(Problem("a point that is infinitely good has no volume", path="points", value="-inf"))
    inside = table[(table < corner).all(axis=1)] if table.size else table
    return _volume(inside, corner)


def _volume(points: Points, corner: Points) -> float:
    """Volume between points, each below the corner, and the corner."""
    if len(points) == 0:
        return 0.0
    front = points[pareto_front(points)]
    if front.shape[1] == 1:
        return float(corner[0] - front[0, 0])
    if front.shape[1] == 2:
        front = front[np.argsort(front[:, 0])]
        rights = np.append(front[1:, 0], corner[0])
        return float(((rights - front[:, 0]) * (corner[1] - front[:, 1])).sum())
    # Worst in the last column first: what the others leave it is then flat in that column, and one column less.
    front = front[np.argsort(-front[:, -1], kind="stable")]
    total = 0.0
    for place, point in enumerate(front):
        behind = np.maximum(front[place + 1 :, :-1], point[:-1])
        own = float(np.prod(corner[:-1] - point[:-1])) - _volume(behind, corner[:-1])
        total += own * float(corner[-1] - point[-1])
    return total


def _table(points: npt.ArrayLike) -> Points:
    table = np.asarray(points, dtype=np.float64)
    if table.size == 0:
        table = table.reshape(0, table.shape[1] if table.ndim == 2 else 2)
    if table.ndim != 2:
        raise BitmosaicError(Problem("must have the shape (points, columns)", path="points", value=str(table.shape)))
    if np.isnan(table).any():
        raise BitmosaicError(Problem("NaN has no place in a front", path="points", value="NaN"))
    return table
