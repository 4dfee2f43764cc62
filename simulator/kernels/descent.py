"""Coordinate descent over rows of blocks, for costs that are sums of products with one factor a block.

The terms lie in one table: ``factors[row, term]``, blocks below one another. A term's kind says what it adds to.
"""

from __future__ import annotations

from collections import namedtuple

import numba
import numpy as np

GRID, CHANNEL, ENERGY, DOUBLED, SINGLE, TILE = range(6)
LATENCY, ENERGY_COST, EDP = range(3)

DescentInput = namedtuple(
    "DescentInput",
    [
        "factors",  # (rows, terms) float64
        "block_start",  # (blocks + 1,)
        "axis_use",  # (rows, axes) int64
        "axis_size",  # (axes,)
        "coefficient",  # (terms,)
        "kind",  # (terms,)
        "operand",  # (terms,) of DOUBLED, SINGLE, TILE terms
        "capacity",  # (terms,) of TILE terms
        "capacity_size",  # (capacities,)
        "capacity_doubles",  # (capacities,) whether tiles may be kept twice
        "may_double",  # (3,)
        "grid_constant", "channel_constant", "energy_constant",
        "single_constant",  # (3,)
        "objective",
    ],
)


@numba.njit(cache=True)
def cost_of(m, value):
    """Cost of one choice from its terms' values: (cost, double-buffered operands as bits); inf if it does not fit."""
    grid, channel, energy = m.grid_constant, m.channel_constant, m.energy_constant
    doubled = np.zeros(3)
    single = np.zeros(3)
    single += m.single_constant
    tiles = np.zeros((m.capacity_size.shape[0], 3))
    for t in range(value.shape[0]):
        kind = m.kind[t]
        if kind == GRID:
            grid += value[t]
        elif kind == CHANNEL:
            channel += value[t]
        elif kind == ENERGY:
            energy += value[t]
        elif kind == DOUBLED:
            doubled[m.operand[t]] += value[t]
        elif kind == SINGLE:
            single[m.operand[t]] += value[t]
        else:
            tiles[m.capacity[t], m.operand[t]] += value[t]
    best = np.inf
    best_mask = 0
    masks = 1 if m.objective == ENERGY_COST else 8
    for mask in range(masks):
        fits = True
        for operand in range(3):
            if (mask >> operand) & 1 and not m.may_double[operand]:
                fits = False
        for c in range(m.capacity_size.shape[0]):
            need = 0.0
            for operand in range(3):
                twice = m.capacity_doubles[c] and (mask >> operand) & 1
                need += tiles[c, operand] * (2 if twice else 1)
            if need > m.capacity_size[c] * (1 + 1e-12):
                fits = False
        if not fits:
            continue
        exposed = 0.0
        for operand in range(3):
            exposed += doubled[operand] if (mask >> operand) & 1 else single[operand]
        latency = max(grid + exposed, channel)
        if m.objective == LATENCY:
            cost = latency
        elif m.objective == ENERGY_COST:
            cost = energy
        else:
            cost = latency * energy
        if cost < best:
            best = cost
            best_mask = mask
    return best, best_mask


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
                cost, mask = cost_of(m, value)
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
                if (used <= m.axis_size).all() and cost_of(m, value)[0] < np.inf:
                    row = trial
        end, cost, mask = descend(m, row)
        rows[s], costs[s], masks[s] = end, cost, mask
    return rows, costs, masks
