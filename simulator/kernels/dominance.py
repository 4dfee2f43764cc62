"""Which rows of a table no other row matches or beats."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True)
def non_dominated(values):
    """Mask of the rows that no other row matches or beats in every column (of equal rows, the first stays).

    ``values`` has shape (rows, columns); smaller is better.
    """
    count, width = values.shape
    keep = np.zeros(count, dtype=np.bool_)
    order = np.argsort(values.sum(axis=1))
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
    return keep
