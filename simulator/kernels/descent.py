"""Coordinate descent over rows of blocks, on the closed-form cost."""

from __future__ import annotations

import numba
import numpy as np

from simulator.kernels.choice_cost import MASKS, choice_cost, new_scratch


@numba.njit(cache=True)
def descend(m, start):
    """Improve one block after the other until none improves. Returns (rows, cost, double-buffer bits)."""
    blocks = m.block_start.shape[0] - 1
    terms = m.factors.shape[1]
    axes = m.axis_use.shape[1]
    row = start.copy()
    best = np.inf
    best_mask = 0
    improved = True
    partial = np.empty(terms)
    value = np.empty(terms)
    scratch, by_mask = new_scratch(m), np.empty(MASKS)
    used = np.empty(axes, dtype=np.int64)
    while improved:
        improved = False
        for b in range(blocks):
            partial[:] = m.coefficient
            used[:] = 1
            for other in range(blocks):
                if other != b:
                    partial *= m.factors[row[other]]
                    used *= m.axis_use[row[other]]
            for candidate in range(m.block_start[b], m.block_start[b + 1]):
                fits = True
                for a in range(axes):
                    if used[a] * m.axis_use[candidate, a] > m.axis_size[a]:
                        fits = False
                        break
                if not fits:
                    continue
                value[:] = partial * m.factors[candidate]
                cost, mask = choice_cost(m, value, scratch, by_mask)
                if cost < best:
                    best, best_mask = cost, mask
                    if row[b] != candidate:
                        row[b] = candidate
                        improved = True
    return row, best, best_mask


@numba.njit(cache=True)
def random_descents(m, smallest, starts, seed):
    """Descend from the smallest rows and from ``starts`` random ones near them.

    Returns all ends: rows (starts + 1, blocks), costs, double-buffer bits.
    """
    np.random.seed(seed)
    blocks = m.block_start.shape[0] - 1
    rows = np.empty((starts + 1, blocks), dtype=np.int64)
    costs = np.empty(starts + 1)
    masks = np.empty(starts + 1, dtype=np.int64)
    scratch, by_mask = new_scratch(m), np.empty(MASKS)
    for s in range(starts + 1):
        row = smallest.copy()
        if s > 0:
            # Random moves that keep the choice feasible, then descent.
            for _ in range(2 * blocks):
                b = np.random.randint(blocks)
                trial = row.copy()
                trial[b] = np.random.randint(m.block_start[b], m.block_start[b + 1])
                value = m.coefficient.copy()
                used = np.ones(m.axis_use.shape[1], dtype=np.int64)
                for other in range(blocks):
                    value *= m.factors[trial[other]]
                    used *= m.axis_use[trial[other]]
                if (used <= m.axis_size).all() and choice_cost(m, value, scratch, by_mask)[0] < np.inf:
                    row = trial
        end, cost, mask = descend(m, row)
        rows[s], costs[s], masks[s] = end, cost, mask
    return rows, costs, masks
