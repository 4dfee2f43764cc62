"""All choices whose closed-form cost lies below a limit: depth-first over the blocks, with pruning.

At a node, rows of some blocks are chosen; every other block stands at its best in each term on its own, which bounds
the cost of all choices below the node.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from simulator.kernels.choice_cost import MASKS, CostInput, choice_cost, new_scratch
from simulator.kernels.dominance import non_dominated

Ints = npt.NDArray[np.int64]


@numba.njit(cache=True)
def _smallest_factors(m, alive, smallest):
    """Set, for each block, the smallest factor of each term among the rows that are alive (inf without any)."""
    for b in range(smallest.shape[0]):
        for t in range(smallest.shape[1]):
            least = np.inf
            for row in range(m.block_start[b], m.block_start[b + 1]):
                if alive[row]:
                    least = min(least, m.factors[row, t])
            smallest[b, t] = least


@numba.njit(cache=True)
def surviving_rows(m, below, alive, bound, smallest):
    """Clear ``alive`` of the rows that can be no part of a choice that costs less than ``below``.

    Sets ``bound`` (rows,), of the cost of every choice with a row that is alive, and ``smallest`` (blocks, terms), the
    smallest factors of these rows. Returns whether every block has one left.
    """
    blocks, terms = smallest.shape
    scratch, by_mask = new_scratch(m), np.empty(MASKS)
    others, value = np.empty(terms), np.empty(terms)
    changed = True
    while changed:
        changed = False
        _smallest_factors(m, alive, smallest)
        for b in range(blocks):
            for t in range(terms):
                others[t] = m.coefficient[t]
                for other in range(blocks):
                    if other != b:
                        others[t] *= smallest[other, t]
            left = 0
            for row in range(m.block_start[b], m.block_start[b + 1]):
                if not alive[row]:
                    continue
                for t in range(terms):
                    value[t] = others[t] * m.factors[row, t]
                bound[row], _ = choice_cost(m, value, scratch, by_mask)
                if bound[row] < below:
                    left += 1
                else:
                    alive[row] = False
                    changed = True
            if left == 0:
                return False
    return True


@numba.njit(cache=True)
def _sift(cost, place, count, rows, masks):
    """Restore the order of the heap (dearest on top) below ``place``."""
    while True:
        child = 2 * place + 1
        if child >= count:
            return
        if child + 1 < count and cost[child + 1] > cost[child]:
            child += 1
        if cost[place] >= cost[child]:
            return
        cost[place], cost[child] = cost[child], cost[place]
        masks[place], masks[child] = masks[child], masks[place]
        for b in range(rows.shape[1]):
            rows[place, b], rows[child, b] = rows[child, b], rows[place, b]
        place = child


def least_cost(m: CostInput) -> float:
    """A lower bound of all choices' costs: of each block the best row, with the other blocks at their best."""
    alive, bound = np.ones(len(m.factors), dtype=np.bool_), np.zeros(len(m.factors))
    smallest = np.empty((len(m.block_start) - 1, m.factors.shape[1]))
    surviving_rows(m, np.inf, alive, bound, smallest)
    return max(float(bound[a:b].min()) for a, b in zip(m.block_start[:-1], m.block_start[1:], strict=True))


def enumerate_choices(
    m: CostInput, below: float, most: int, node_limit: int, undominated: bool = False, stop: Ints | None = None,
    *, survivors: bool = True, ordered: bool = True,
) -> tuple[Ints, Ints, npt.NDArray[np.float64], float, bool]:
    """Find the ``most`` cheapest pairs of choice and double buffering that cost less than ``below``.

    Returns (rows (found, blocks), double-buffer bits, costs, floor, finished). No choice costs less than ``floor``
    but those that were found; that holds only where ``finished``: else the search gave up after ``node_limit`` nodes.
    ``undominated``: of rows of which one is at most another in every term, only that one is tried. The cheapest cost
    is the same then, and sooner found; other choices may be missing.
    ``stop`` (1,): where another thread sets it to other than 0, the search gives up too.
    ``survivors``: rows that can be in no choice below ``below`` are dropped first; ``ordered``: small blocks and
    promising rows come first. Without them the search is slower, and what it finds the same.
    """
    blocks, terms = len(m.block_start) - 1, m.factors.shape[1]
    alive, bound = np.ones(len(m.factors), dtype=np.bool_), np.zeros(len(m.factors))
    smallest = np.empty((blocks, terms))
    rows, masks, costs = np.empty((most, blocks), dtype=np.int64), np.empty(most, dtype=np.int64), np.empty(most)
    # Called also where nothing survives, so that everything is compiled by a first call that finds nothing.
    possible = surviving_rows(m, below if survivors else np.inf, alive, bound, smallest)
    if not ordered:
        bound[:] = -np.inf  # of rows in any order, none may end the walk through those behind it
    own = [np.flatnonzero(alive[a:b]) + a for a, b in zip(m.block_start[:-1], m.block_start[1:], strict=True)]
    if undominated and possible:
        tables = [np.column_stack([m.factors[kept].astype(np.int64), m.axis_use[kept]]) for kept in own]
        own = [kept[non_dominated(table)] for kept, table in zip(own, tables, strict=True)]
    # Small blocks first: their choices then prune the large ones. Most promising rows first.
    order = np.argsort([len(kept) for kept in own], kind="stable") if ordered else np.arange(blocks)
    listed = np.concatenate([own[b][np.argsort(bound[own[b]], kind="stable")] for b in order])
    start = np.concatenate([[0], np.cumsum([len(own[b]) for b in order])]).astype(np.int64)
    rest = np.ones((blocks + 1, terms))
    for level in range(blocks - 1, -1, -1):
        rest[level] = rest[level + 1] * smallest[order[level]]
    search = _depth_first(
        m, below, node_limit if possible else 0, order, listed, start, bound, rest, rows, masks, costs,
        np.zeros(1, dtype=np.int64) if stop is None else stop,
    )
    count, floor, finished = (0, below, True) if not possible else search
    return rows[:count], masks[:count], costs[:count], floor, finished


@numba.njit(cache=True, nogil=True)
def _depth_first(m, below, node_limit, order, listed, start, bound, rest, rows, masks, cost, stop):
    """Fill ``rows``, ``masks``, ``cost`` with the cheapest choices. Returns (found, floor, finished).

    ``order`` (blocks,): the block of each level; ``listed`` from ``start[level]``: its rows, by rising ``bound``;
    ``rest`` (blocks + 1, terms): smallest product of the factors from a level on.
    """
    blocks, terms, axes = order.shape[0], m.factors.shape[1], m.axis_use.shape[1]
    most, count = cost.shape[0], 0
    partial = np.empty((blocks + 1, terms))
    for t in range(terms):
        partial[0, t] = m.coefficient[t]
    used = np.ones((blocks + 1, axes), dtype=np.int64)
    value = np.empty(terms)
    scratch, by_mask = new_scratch(m), np.empty(MASKS)
    following = np.empty(blocks, dtype=np.int64)
    for level in range(blocks):
        following[level] = start[level]
    chosen = np.empty(blocks, dtype=np.int64)
    limit = below
    nodes = 0
    level = 0
    while level >= 0:
        if following[level] == start[level + 1]:
            following[level] = start[level]
            level -= 1
            continue
        row = listed[following[level]]
        following[level] += 1
        if not bound[row] < limit:
            # Sorted by bound: so are all that follow.
            following[level] = start[level + 1]
            continue
        nodes += 1
        if nodes > node_limit or (nodes & 1023 == 0 and stop[0] != 0):
            return count, 0.0, False
        fits = True
        for a in range(axes):
            used[level + 1, a] = used[level, a] * m.axis_use[row, a]
            if used[level + 1, a] > m.axis_size[a]:
                fits = False
        if not fits:
            continue
        for t in range(terms):
            partial[level + 1, t] = partial[level, t] * m.factors[row, t]
            value[t] = partial[level + 1, t] * rest[level + 1, t]
        lowest, _ = choice_cost(m, value, scratch, by_mask)
        if not lowest < limit:
            continue
        chosen[order[level]] = row
        if level < blocks - 1:
            level += 1
            continue
        for mask in range(MASKS):
            if not by_mask[mask] < limit:
                continue
            if count < most:
                # Sift up.
                place = count
                count += 1
                while place > 0 and cost[(place - 1) // 2] < by_mask[mask]:
                    parent = (place - 1) // 2
                    cost[place], masks[place] = cost[parent], masks[parent]
                    for b in range(blocks):
                        rows[place, b] = rows[parent, b]
                    place = parent
            else:
                place = 0
            cost[place] = by_mask[mask]
            masks[place] = mask
            for b in range(blocks):
                rows[place, b] = chosen[b] - m.block_start[b]
            if place == 0:
                _sift(cost, 0, count, rows, masks)
            if count == most:
                limit = min(limit, cost[0])
    return count, limit, True
