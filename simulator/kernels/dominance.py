"""Which rows of a table no other row matches or beats."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from simulator.kernels.compiled import inner


def non_dominated(values: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Mask of the rows that no other row matches or beats in every column (of equal rows, one stays).

    ``values`` has shape (rows, columns), int64; smaller is better.
    """
    # Columns that repeat another decide nothing, and cost time in every comparison.
    different = {column.tobytes(): place for place, column in enumerate(np.ascontiguousarray(values.T))}
    values = np.ascontiguousarray(values[:, list(different.values())])
    # A row can only be beaten by one of a smaller sum. Sorting is left to NumPy: Numba compiles its own for seconds.
    keep: npt.NDArray[np.bool_] = _fronts(
        values, np.argsort(values.sum(axis=1), kind="stable"), np.array([0, len(values)])
    )
    return keep


def non_dominated_of_each(values: npt.NDArray[np.int64], kind: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """``non_dominated`` among the rows of each kind apart. ``kind`` has shape (rows,), int64."""
    order = np.lexsort((values.sum(axis=1), kind))
    begins = np.flatnonzero(np.diff(kind[order], prepend=kind[order[:1]] - 1))
    keep: npt.NDArray[np.bool_] = _fronts(np.ascontiguousarray(values), order, np.append(begins, len(order)))
    return keep


@numba.njit(cache=True)
def _fronts(values, order, begins):
    """``non_dominated_of_each`` for rows that come kind by kind; ``begins``: where each kind does, and the end."""
    keep = np.zeros(values.shape[0], dtype=np.bool_)
    for kind in range(begins.shape[0] - 1):
        _front(values, order[begins[kind] : begins[kind + 1]], keep)
    return keep


@inner()
def _front(values, order, keep):
    """Mark in ``keep`` which rows none of the others beats; they come in an order in which none is beaten by a later
    one."""
    count, width = order.shape[0], values.shape[1]
    front = np.empty(count, dtype=np.int64)
    found = 0
    for candidate in order:
        beaten = False
        for place in range(found):
            other = front[place]
            worse = False
            for column in range(width):
                if values[other, column] > values[candidate, column]:
                    worse = True
                    break
            if not worse:
                beaten = True
                # Move to the front: what beat one row tends to beat the next.
                if place > 0:
                    front[place] = front[place // 2]
                    front[place // 2] = other
                break
        if not beaten:
            keep[candidate] = True
            front[found] = candidate
            found += 1
