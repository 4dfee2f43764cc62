"""A tree over the rows of each block: rows that resemble each other stand together, so that they are bounded together.

A node stands for the rows below it, with the least factor that any of them has in each term, and the least that any
takes of each axis. It is cut where a factor that matters spreads most, in the middle of its logarithms.
"""

from __future__ import annotations

from collections import namedtuple

import numba
import numpy as np
import numpy.typing as npt

from simulator.kernels.choice_cost import CHANNEL, ENERGY, GRID, PACED, TILE, CostInput

RowTrees = namedtuple(
    "RowTrees",
    [
        "root",  # (blocks,) node of each block that stands for all of its rows
        "first",  # (nodes,) first half of a node, the second behind it; -1: a single row
        "row",  # (nodes,) of a single row; else -1
        "least",  # (nodes, terms)
        "axis_use",  # (nodes, axes)
    ],
)
# Terms by which rows are told apart. The others are small, or are multiples of these.
TELLING = (GRID, PACED, CHANNEL, ENERGY, TILE)


def row_trees(m: CostInput, rows: list[npt.NDArray[np.int64]], *, clustered: bool = True) -> RowTrees:
    """Trees over some rows of each block (at least one of each).

    ``clustered``: rows that resemble each other stand together; else rows are halved as they come.
    """
    telling = np.isin(m.kind, TELLING) & clustered
    spread_of = np.zeros((len(m.factors), int(telling.sum()) + m.axis_use.shape[1]))
    if clustered:
        used = np.concatenate(rows)
        numbers = np.column_stack([np.maximum(m.factors[used][:, telling], 0.5), m.axis_use[used]])
        spread_of[used] = np.log(numbers)
    nodes = sum(2 * len(own) - 1 for own in rows)
    trees = RowTrees(
        root=np.zeros(len(rows), dtype=np.int64),
        first=np.full(nodes, -1),
        row=np.full(nodes, -1),
        least=np.empty((nodes, m.factors.shape[1])),
        axis_use=np.empty((nodes, m.axis_use.shape[1]), dtype=np.int64),
    )
    begin = 0
    for block, own in enumerate(rows):
        trees.root[block] = begin
        begin = _grow(m, trees, spread_of, own.astype(np.int64), begin)
    return trees


@numba.njit(cache=True)
def _grow(m, trees, spread_of, own, root):
    """Fill the nodes of one block's tree, from ``root`` on. Returns the number of the node behind them."""
    begin, end = np.empty(2 * own.shape[0], dtype=np.int64), np.empty(2 * own.shape[0], dtype=np.int64)
    other_half = np.empty(own.shape[0], dtype=np.int64)
    begin[0], end[0] = 0, own.shape[0]
    behind = root + 1
    node = root
    while node < behind:  # halves lie behind the node that is cut
        a, b = begin[node - root], end[node - root]
        if b - a == 1:
            trees.row[node] = own[a]
        else:
            middle = (a + b) // 2
            widest, column, cut = 0.0, -1, 0.0
            for each in range(spread_of.shape[1]):
                least, most = np.inf, -np.inf
                for place in range(a, b):
                    least = min(least, spread_of[own[place], each])
                    most = max(most, spread_of[own[place], each])
                if most - least > widest:
                    widest, column, cut = most - least, each, (least + most) / 2
            if column >= 0:
                # Not further than to the largest: rounding may put the middle of two neighbours on one of them.
                middle, late = a, 0
                for place in range(a, b):
                    if spread_of[own[place], column] <= cut:
                        own[middle], middle = own[place], middle + 1
                    else:
                        other_half[late], late = own[place], late + 1
                for place in range(late):
                    own[middle + place] = other_half[place]
                if late == 0:
                    middle = (a + b) // 2
            trees.first[node] = behind
            begin[behind - root], end[behind - root] = a, middle
            begin[behind + 1 - root], end[behind + 1 - root] = middle, b
            behind += 2
        node += 1
    for node in range(behind - 1, root - 1, -1):
        if trees.row[node] >= 0:
            for t in range(trees.least.shape[1]):
                trees.least[node, t] = m.factors[trees.row[node], t]
            for axis in range(trees.axis_use.shape[1]):
                trees.axis_use[node, axis] = m.axis_use[trees.row[node], axis]
        else:
            half = trees.first[node]
            for t in range(trees.least.shape[1]):
                trees.least[node, t] = min(trees.least[half, t], trees.least[half + 1, t])
            for axis in range(trees.axis_use.shape[1]):
                trees.axis_use[node, axis] = min(trees.axis_use[half, axis], trees.axis_use[half + 1, axis])
    return behind
