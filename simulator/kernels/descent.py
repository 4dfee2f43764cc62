"""Coordinate descent over rows of blocks, on the closed-form cost."""

from __future__ import annotations

import numba
import numpy as np

from simulator.kernels.choice_cost import MASKS, choice_cost, new_scratch
from simulator.kernels.compiled import inner


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
            for t in range(terms):
                partial[t] = m.coefficient[t]
                for other in range(blocks):
                    if other != b:
                        partial[t] *= m.factors[row[other], t]
            for a in range(axes):
                used[a] = 1
                for other in range(blocks):
                    if other != b:
                        used[a] *= m.axis_use[row[other], a]
            for candidate in range(m.block_start[b], m.block_start[b + 1]):
                fits = True
                for a in range(axes):
                    if used[a] * m.axis_use[candidate, a] > m.axis_size[a]:
                        fits = False
                        break
                if not fits:
                    continue
                for t in range(terms):
                    value[t] = partial[t] * m.factors[candidate, t]
                cost, mask = choice_cost(m, value, scratch, by_mask)
                if cost < best:
                    best, best_mask = cost, mask
                    if row[b] != candidate:
                        row[b] = candidate
                        improved = True
    return row, best, best_mask


@inner()
def _fits_axes(m, row):
    """Whether the unrolling of one choice fits the grid."""
    for a in range(m.axis_use.shape[1]):
        used = 1
        for b in range(row.shape[0]):
            used *= m.axis_use[row[b], a]
        if used > m.axis_size[a]:
            return False
    return True


@inner()
def _cost_at(m, row, value, scratch, by_mask):
    """Cost of one choice."""
    for t in range(value.shape[0]):
        value[t] = m.coefficient[t]
        for b in range(row.shape[0]):
            value[t] *= m.factors[row[b], t]
    return choice_cost(m, value, scratch, by_mask)[0]


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
    value, scratch, by_mask = np.empty(m.factors.shape[1]), new_scratch(m), np.empty(MASKS)
    for s in range(starts + 1):
        row = smallest.copy()
        if s > 0:
            # Random moves that keep the choice feasible, then descent.
            for _ in range(2 * blocks):
                b = np.random.randint(blocks)
                before = row[b]
                row[b] = m.block_start[b] + int(np.random.random() * (m.block_start[b + 1] - m.block_start[b]))
                if not (_fits_axes(m, row) and _cost_at(m, row, value, scratch, by_mask) < np.inf):
                    row[b] = before
        end, costs[s], masks[s] = descend(m, row)
        for b in range(blocks):
            rows[s, b] = end[b]
    return rows, costs, masks
