"""All choices whose closed-form cost lies below a limit: depth-first over the blocks, with pruning.

At a node, rows of some blocks are chosen; every other block stands at its best in each term on its own, which bounds
the cost of all choices below the node.
"""

from __future__ import annotations

import numba
import numpy as np

from simulator.kernels.choice_cost import MASKS, choice_cost, new_scratch


@numba.njit(cache=True)
def _smallest_factors(m, alive):
    """Per block, the smallest factor of each term among the rows that are alive."""
    blocks, terms = m.block_start.shape[0] - 1, m.factors.shape[1]
    smallest = np.full((blocks, terms), np.inf)
    for b in range(blocks):
        for row in range(m.block_start[b], m.block_start[b + 1]):
            if alive[row]:
                smallest[b] = np.minimum(smallest[b], m.factors[row])
    return smallest


@numba.njit(cache=True)
def surviving_rows(m, below):
    """Rows that can be part of a choice that costs less than ``below``.

    Returns (alive (rows,), bound (rows,): of the cost of every choice with that row).
    """
    blocks = m.block_start.shape[0] - 1
    rows = m.factors.shape[0]
    alive = np.ones(rows, dtype=np.bool_)
    bound = np.zeros(rows)
    scratch, by_mask = new_scratch(m), np.empty(MASKS)
    changed = True
    while changed:
        changed = False
        smallest = _smallest_factors(m, alive)
        for b in range(blocks):
            others = m.coefficient.copy()
            for other in range(blocks):
                if other != b:
                    others *= smallest[other]
            for row in range(m.block_start[b], m.block_start[b + 1]):
                if alive[row]:
                    bound[row], _ = choice_cost(m, others * m.factors[row], scratch, by_mask)
                    if not bound[row] < below:
                        alive[row] = False
                        changed = True
        for b in range(blocks):
            if not alive[m.block_start[b] : m.block_start[b + 1]].any():
                alive[:] = False
                return alive, bound
    return alive, bound


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


@numba.njit(cache=True)
def enumerate_choices(m, below, most, node_limit):
    """Find the ``most`` cheapest pairs of choice and double buffering that cost less than ``below``.

    Returns (rows (found, blocks), double-buffer bits, costs, floor, finished). No choice costs less than ``floor``
    but those that were found; that holds only where ``finished``: else the search gave up after ``node_limit`` nodes.
    """
    blocks, terms, axes = m.block_start.shape[0] - 1, m.factors.shape[1], m.axis_use.shape[1]
    rows = np.empty((most, blocks), dtype=np.int64)
    masks = np.empty(most, dtype=np.int64)
    cost = np.empty(most)
    count = 0
    alive, bound = surviving_rows(m, below)
    sizes = np.empty(blocks, dtype=np.int64)
    for b in range(blocks):
        sizes[b] = alive[m.block_start[b] : m.block_start[b + 1]].sum()
    if sizes.min() == 0:
        return rows[:0], masks[:0], cost[:0], below, True
    # Small blocks first: their choices then prune the large ones.
    order = np.argsort(sizes)
    smallest = _smallest_factors(m, alive)
    rest = np.ones((blocks + 1, terms))
    for level in range(blocks - 1, -1, -1):
        rest[level] = rest[level + 1] * smallest[order[level]]
    # Rows of each level, most promising first.
    start = np.zeros(blocks + 1, dtype=np.int64)
    listed = np.empty(sizes.sum(), dtype=np.int64)
    for level in range(blocks):
        b = order[level]
        own = np.flatnonzero(alive[m.block_start[b] : m.block_start[b + 1]]) + m.block_start[b]
        start[level + 1] = start[level] + own.shape[0]
        listed[start[level] : start[level + 1]] = own[np.argsort(bound[own])]

    partial = np.empty((blocks + 1, terms))
    partial[0] = m.coefficient
    used = np.ones((blocks + 1, axes), dtype=np.int64)
    value = np.empty(terms)
    scratch, by_mask = new_scratch(m), np.empty(MASKS)
    following = start[:-1].copy()
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
        if nodes > node_limit:
            return rows[:count], masks[:count], cost[:count], 0.0, False
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
                    rows[place] = rows[parent]
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
    return rows[:count], masks[:count], cost[:count], limit, True
